"""Search for good settings of a training: proposed from the trials before (TPE), hopeless trials stopped early.

    python scripts/tune.py num_trials=20                             conf/search/two_conv.yaml on the bundled digits
    python scripts/tune.py search=reader experiment=reader data=mnist data.num_train=6000 trainer.max_epochs=18
    python scripts/tune.py study=lr search.model.lr.high=3e-2 '~search.model.hidden_units' trainer.max_epochs=5

Settings, as key=value:
    search=two_conv|reader                 what to search: a file of conf/search/
    search.KEY.low=...  .high  .log  .step  .choices  .type      a range; ~search.KEY leaves a key as it is
    study=NAME                             the study; the same command again goes on with it, wherever it was stopped
    num_trials=20                          how many of the study's trials are to finish, pruned ones included
    sampler_seed=0                         of the proposals
    pruning.startup_trials=5               none is pruned until so many are complete,
    pruning.warmup_epochs=N                nor before it has trained so long; a third of trainer.max_epochs
    debug=true                             show a mistake's traceback

    Every other key is that of scripts/train.py and the same for all trials.

Start the command several times to search with several processes, in several terminals or on several GPUs
(CUDA_VISIBLE_DEVICES=1). A study leaves its trials' runs, trials.csv, study.json and figures in outputs/studies/NAME/,
and prints the command that trains the best trial's model again. The test set is left alone.
"""

from digitsum.cli.console import log, print_help_and_exit, report_user_errors, run_script
from digitsum.cli.project import PROJECT

if __name__ == "__main__":
    print_help_and_exit(__doc__)  # before the imports below, which take seconds

import math
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from digitsum.cli.auto_settings import settle_auto
from digitsum.cli.build import register
from digitsum.cli.overrides import flatten, override_key
from digitsum.cli.tune import OWN, PLACES, check, conclude, run_trials
from digitsum.errors import InputError
from digitsum.metrics import monitor_mode
from digitsum.training.signals import Interrupted, Signals
from digitsum.tuning.search import Search, require_optuna
from digitsum.tuning.space import build_space

register()


@hydra.main(version_base="1.3", config_path=f"{PROJECT}/conf", config_name="tune")
@report_user_errors
def main(cfg: DictConfig) -> None:
    """Search until the study has as many trials as it is to have, or a signal comes."""
    require_optuna()
    command = HydraConfig.get()
    if command.mode == RunMode.MULTIRUN:
        raise InputError("expected one study, got a sweep; leave -m out")
    if cfg.num_trials < 1:
        raise InputError(f"num_trials: expected 1 or more, got {cfg.num_trials}")
    fixed = [word for word in command.overrides.task if override_key(word).partition(".")[0] not in OWN]
    wanted = flatten(OmegaConf.to_container(cfg.search, resolve=True), until="type")
    wanted = {key: options for key, options in wanted.items() if options != {}}  # all of whose keys were left out
    space = build_space(wanted)
    folder = Path(command.runtime.output_dir)
    signals = Signals()
    with signals.listening():
        base = hydra.compose("train", fixed)
        settings = flatten(OmegaConf.to_container(base, resolve=True))
        check(base, wanted, settings, fixed)
        warmup_epochs = cfg.pruning.warmup_epochs
        if warmup_epochs is None:
            settle_auto(base)
            warmup_epochs = math.ceil((base.trainer.max_epochs or 1) / 3)
        search = Search(
            folder,
            space,
            {key: value for key, value in settings.items() if key not in wanted and not key.endswith(PLACES)},
            direction="maximize" if monitor_mode(base.monitor) == "max" else "minimize",
            seed=cfg.sampler_seed,
            startup_trials=cfg.pruning.startup_trials,
            warmup_epochs=warmup_epochs,
        )
        try:
            run_trials(search, cfg.num_trials, fixed, signals)
        except Interrupted:
            log.info("stopped; go on with the same command")
            raise
        finally:
            conclude(search, fixed, base.monitor)


if __name__ == "__main__":
    run_script(main, "tune")
