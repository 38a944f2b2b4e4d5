"""MS1MV3, R50: a finished run is trained further with a larger margin. Set the lines marked with *.

torchrun --nproc_per_node=8 -m verimargin_insightface train_v2.py configs/ms1mv3_r50_finetune.py
"""

import verimargin as vm
from easydict import EasyDict as edict
from verimargin_insightface import register

config = edict()
config.rec = "/train_tmp/ms1m-retinaface-t1"  # * the folder of train.rec, train.idx and the .bin sets
config.num_classes = 93431
config.num_image = 5179510

# * a model.pt, to start with new prototypes; or the folder of a run with config.save_all_states = True, to inherit its
# prototypes too
config.pretrained = "work_dirs/ms1mv3_r50_qmargin"

config.network = "r50"
config.embedding_size = 512
config.output = None
config.resume = False
config.save_all_states = True  # needed for config.resume
config.sample_rate = 1.0
config.fp16 = True
config.batch_size = 128  # per rank; the lr of 0.001 is meant for 8 ranks
config.optimizer = "sgd"
config.lr = 0.001
config.momentum = 0.9
config.weight_decay = 5e-4
config.num_epoch = 2
config.warmup_epoch = 0
config.dali = False
config.verbose = 2000
config.val_targets = ["lfw", "cfp_fp", "agedb_30"]

config.loss = vm.q_margin(alpha=1.25, scale=32.0, margin=0.3)
config.schedule = dict(margin=vm.Ramp(0.2, 0.3, start=0, end=5000), unit="steps")
register(config)
