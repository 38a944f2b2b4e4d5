"""A trial run of Q-Margin: upstream's mbf on an image folder, in minutes on a CPU. Set the lines marked with *.

python -m verimargin_insightface train_v2.py configs/cpu_mbf_qmargin.py
"""

import verimargin as vm
from easydict import EasyDict as edict
from verimargin_insightface import register

config = edict()
config.rec = "faces/train"  # * one folder of 112 x 112 images per class, or train.rec and train.idx
config.num_classes = 30  # *
config.num_image = 300  # *

config.network = "mbf"
config.embedding_size = 512
config.output = None
config.resume = False
config.sample_rate = 1.0
config.fp16 = False
config.batch_size = 20
config.optimizer = "sgd"
config.lr = 0.02
config.momentum = 0.9
config.weight_decay = 5e-4
config.num_epoch = 10
config.warmup_epoch = 1
config.num_workers = 1
config.dali = False
config.verbose = 2000
config.frequent = 5
config.val_targets = []

# A few classes need a smaller scale than millions do: with a scale of 32, most samples would soon teach nothing.
config.loss = vm.q_margin(alpha=1.5, scale=10, margin=0.2)
register(config)
