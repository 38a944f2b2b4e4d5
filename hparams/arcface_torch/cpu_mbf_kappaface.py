"""A trial run of KappaFace: upstream's mbf on an image folder, in minutes on a CPU. Set the lines marked with *.

python -m verimargin_insightface train_v2.py configs/cpu_mbf_kappaface.py
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

config.loss = vm.kappaface(config.num_classes, scale=64.0, margin=0.8)
# With 15 steps per epoch, a momentum of 0.999 would keep the copy near the network's initial weights. To do without a
# second network, use dict(estimator="memory").
config.kappa = dict(estimator="momentum", momentum=0.9)
register(config)
