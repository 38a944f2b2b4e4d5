"""Fine-tuning of cpu_mbf_qmargin.py's network with a larger margin, in minutes on a CPU. Set the lines marked with *.

python -m verimargin_insightface train_v2.py configs/cpu_mbf_finetune.py
"""

import verimargin as vm
from easydict import EasyDict as edict
from verimargin_insightface import register

config = edict()
config.rec = "faces/train"  # * one folder of 112 x 112 images per class, or train.rec and train.idx
config.num_classes = 30  # *
config.num_image = 300  # *

# * a model.pt, to start with new prototypes; or the folder of a run with config.save_all_states = True, to inherit its
# prototypes too
config.pretrained = "work_dirs/cpu_mbf_qmargin/model.pt"

config.network = "mbf"
config.embedding_size = 512
config.output = None
config.resume = False
config.sample_rate = 1.0
config.fp16 = False
config.batch_size = 20
config.optimizer = "sgd"
config.lr = 0.005
config.momentum = 0.9
config.weight_decay = 5e-4
config.num_epoch = 4
config.warmup_epoch = 1
config.num_workers = 1
config.dali = False
config.verbose = 2000
config.frequent = 5
config.val_targets = []

config.loss = vm.q_margin(alpha=1.5, scale=10, margin=0.4)
config.schedule = dict(margin=vm.Ramp(0.2, 0.4, start=0, end=2), unit="epochs")
register(config)
