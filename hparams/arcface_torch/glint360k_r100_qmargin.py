"""Glint360K, R100, Q-Margin (arXiv 2606.31664). Copy it into arcface_torch's configs/ and set the lines marked with *.

torchrun --nproc_per_node=8 -m verimargin_insightface train_v2.py configs/glint360k_r100_qmargin.py
"""

import verimargin as vm
from easydict import EasyDict as edict
from verimargin_insightface import register

config = edict()
config.rec = "/train_tmp/glint360k"  # * the folder of train.rec, train.idx and the .bin sets
config.num_classes = 360232
config.num_image = 17091657

config.network = "r100"
config.embedding_size = 512
config.output = None
config.resume = False
config.save_all_states = True  # needed for config.resume
config.sample_rate = 1.0
config.fp16 = True
config.batch_size = 128  # per rank; the lr of 0.1 is meant for 8 ranks
config.optimizer = "sgd"
config.lr = 0.1
config.momentum = 0.9
config.weight_decay = 1e-4
config.num_epoch = 20
config.warmup_epoch = 0
config.dali = False
config.verbose = 2000
config.val_targets = ["lfw", "cfp_fp", "agedb_30"]

config.loss = vm.q_margin(alpha=1.25, scale=32.0, margin=0.2)
register(config)
