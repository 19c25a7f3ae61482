"""The method's axes (and its rivals) as options of a run."""

NO_CON_D = ("run.con_d=null", "model.mafa.action=keep")
NO_S_ITC = ("model.mafa.alpha=0.0",)
RANDOM = ("run.sampling=random",)
PLAIN = (*RANDOM, "run.con_d=null", "model.mafa.preset=none")  # random batches, drawn negatives
GRIT = (*NO_CON_D, *NO_S_ITC)  # hardest negatives, one-hot (BLIP-2: LAVIS' smoothing of 0.1)
CONSISTENCY = ("model.mafa.targets=consistency",)
EMA = 0.98  # of 120 steps: at ALBEF's 0.995 the momentum model would still be half the warm-up at the end
MOMENTUM = ("model.mafa.targets=momentum", f"model.mafa.ema={EMA}")
DISTIL = ("model.mafa.action=distil",)  # Con-D's scores are labels of the matching head, and connect nothing
RELATIVE = ("run.con_d=null", "model.mafa.rule=relative")  # similarities judge, no Con-D
FIXED_Q = ("run.quantile=0.9",)  # of similarity, where GRIT takes 1 (FALCON, arXiv 2505.11192)
SKIPPED = ("run.skip_nearest=8",)  # of the 640 records of a search space (B3, arXiv 2505.11293)
ALL = ("run.search_space=all",)
OWN_HEAD = ("run.con_d={arch: self}",)
OFFLINE = ("run.con_d={arch: file}",)
NOISE = 0.3  # share of noisy captions that describe another scene
NOISY = (f"datasets.scenes.splits.train.noise={NOISE}",)
