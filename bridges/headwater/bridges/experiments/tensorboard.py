"""Law: one folder a run, and in it one file of ours, which a later export replaces; other people's stay."""

from pathlib import Path
from typing import Final

from headwater.bridges.experiments.experiment import Experiment
from headwater.schemas.errors import ConfigError

SUFFIX: Final = ".headwater"


def write(experiment: Experiment, folder: Path) -> Path:
    """Write a run for TensorBoard below `folder`; returns the run's own folder.

    Raises:
        ConfigError: the folder cannot be written.
    """
    # Lazily, for it takes a second to load.
    from tensorboardX import SummaryWriter

    own = folder / experiment.run
    try:
        own.mkdir(parents=True, exist_ok=True)
        before = tuple(own.glob(f"events.out.tfevents.*{SUFFIX}"))
        with SummaryWriter(str(own), filename_suffix=SUFFIX) as writer:
            writer.add_text("run", _words(experiment), 0, walltime=experiment.started_at.timestamp())
            for scalar in experiment.scalars:
                writer.add_scalar(scalar.name, scalar.value, scalar.round, walltime=scalar.at.timestamp())
            mine = Path(writer.file_writer.event_writer._ev_writer._file_name)
        # Behind the new one, so that a failure leaves the old; one of the same second has the same name.
        for file in before:
            if file.name != mine.name:
                file.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"--target: {folder}: {error.strerror}; choose another folder") from None
    return own


def _words(experiment: Experiment) -> str:
    rows = [f"| {name} | {value} |" for name, value in sorted(experiment.settings.items())]
    return "\n".join([f"{experiment.name}, fleet {experiment.fleet}: {experiment.state}", "", "| | |", "|-|-|", *rows])
