"""The command line in this process: configs from flags, errors, exit statuses."""

import logging
import pathlib

import pytest
from absl import flags

from cfx_jax.config import ClassifierConfig, Config, ConfigError
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.records import RecordsError
from cfx_jax.runs import cli
from cfx_jax.runs.preemption import StoppedError
from cfx_jax.train.config import TrainConfig

# Of ml_collections, when it loads a config file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def parse(*arguments, config_type=Config, default_name="demo", values=None):
    values = flags.FlagValues() if values is None else values
    return cli.parse_command(["program", *arguments], config_type, default_name, values)


@pytest.mark.parametrize("file", [[], [f"--config={CONFIGS}/demo.py"]])
def test_fields_of_every_type_are_overridden_with_and_without_a_file(file):
    config, workdir, rest = parse(
        *file,
        "--config.seed=3",
        "--config.precision=bfloat16",
        "--config.explain.num_steps=2",
        "--config.explain.learning_rate=0.5",
        "--config.data.max_examples=4",
        "--config.data.class_folders",
        "--noconfig.report.save_images",
        "--config.batch.per_device_batch_size", "6",
    )  # fmt: skip
    expected = Config(seed=3, precision="bfloat16")
    expected.explain.num_steps, expected.explain.learning_rate = 2, 0.5
    expected.data.max_examples, expected.data.class_folders = 4, True
    expected.report.save_images = False
    expected.batch.per_device_batch_size = 6
    assert config == expected
    assert (workdir, rest) == ("runs/demo", ["program"])


@pytest.mark.parametrize("file", [[], [f"--config={CONFIGS}/evaluate_imagenet.py"]])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["('centre',)"], ("centre",)),
        (['("centre", "rise")'], ("centre", "rise")),
        (["centre", "rise"], ("centre", "rise")),
    ],
)
def test_tuples_are_overridden_as_python_or_by_repeating_the_flag(file, given, expected):
    arguments = [f"--config.baselines={text}" for text in given]
    config, _, _ = parse(*file, *arguments, config_type=EvaluateConfig)
    assert config.baselines == expected


def test_classifiers_that_judge_are_named_with_their_weights():
    config, _, _ = parse(
        "--config.judges.classifiers=vit_b16",
        "--config.judges.classifiers=resnet18=a=b.pth",
        config_type=EvaluateConfig,
    )
    assert config.judges.sections() == {
        "vit_b16": ClassifierConfig("vit_b16"),
        "resnet18": ClassifierConfig("resnet18", "a=b.pth"),
    }


def test_without_flags_a_config_is_that_of_its_type_and_nothing_is_kept():
    parse("--config.seed=3")
    config, workdir, _ = parse("--workdir=there", config_type=EvaluateConfig)
    assert (config, workdir) == (EvaluateConfig(), "there")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.explain.steps=3"], r"config\.explain\.steps.*num_steps, num_samples"),
        (["--noconfig.report.save=3"], r"config\.report\.save.*save_images"),
        (["--config.nothing=3"], r"config\.nothing.*data, classifier, generator"),
        (["--config.explain.num_steps=many"], "num_steps=many"),
        (["--config.explain.num_steps=2.5"], r"num_steps=2\.5"),
        (["--config.explain.num_steps"], "Missing value.*num_steps"),
        (["--config=no/such/file.py"], r"no/such/file\.py"),
        (["--config={tmp}/empty.py"], r"(?s)get_config.*in: .*empty\.py"),
        (["--config={tmp}/fails.py"], "(?s)KeyError.*'colour'"),
        (["--config={tmp}/wrong.py"], r"wrong\.py: expected a file.*cfx_jax\.config\.Config"),
        (["--confg=configs/demo.py"], "confg"),
    ],
)
def test_what_is_wrong_with_the_flags_is_told(arguments, message, tmp_path):
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "fails.py").write_text("def get_config():\n    return {}['colour']\n")
    (tmp_path / "wrong.py").write_text("def get_config():\n    return {}\n")
    with pytest.raises(ConfigError, match=message):
        parse(*(text.format(tmp=tmp_path) for text in arguments))


def test_a_training_asks_for_its_file():
    for arguments in ([], ["--config.seed=1"]):
        with pytest.raises(ConfigError, match=r"config.*get_config\(\)|config\.seed"):
            parse(*arguments, config_type=TrainConfig, default_name="")


def test_flags_of_a_second_command_fail_clearly():
    values = flags.FlagValues()
    parse(values=values)
    with pytest.raises(ConfigError, match="'config' is defined twice"):
        parse(values=values)


def test_help_lists_the_flags_of_the_command():
    values = flags.FlagValues()
    parse(values=values)
    shown = values.main_module_help()
    assert "--config:" in shown
    assert "--workdir:" in shown


def end(main, **options):
    """Returns the exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        cli.exit_with(main, **options)
    return ended.value.code


def fail_with(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (ConfigError("seed is -1"), 2, "error: seed is -1\n"),
        (RecordsError("damaged"), 2, "error: damaged\n"),
        (OSError("no space"), 2, "error: no space\n"),
        (StoppedError(0.0), 0, "stopped by SIGTERM; resume with the same command\n"),
        (KeyboardInterrupt(), 130, "interrupted; go on with the same command\n"),
    ],
)
def test_what_ends_a_command_is_one_message_and_an_exit_status(error, code, printed, capsys):
    assert end(fail_with(error)) == code
    assert capsys.readouterr().err == printed


def test_a_fault_of_the_program_keeps_its_traceback(capsys):
    with pytest.raises(ValueError, match="a bug"):
        cli.exit_with(fail_with(ValueError("a bug")))
    assert end(fail_with(ValueError("bad file")), user_errors=(ValueError,)) == 2
    assert capsys.readouterr().err == "error: bad file\n"


def test_a_command_shows_what_is_logged_and_ends_with_its_status(capsys):
    def main(status):
        logging.getLogger("cfx_jax.somewhere").warning("careful")
        return status

    assert end(lambda: main(1)) == 1
    assert not end(lambda: main(None))
    assert capsys.readouterr().err == 2 * "warning: careful\n"


def test_a_config_file_stands_for_itself_alone(tmp_path):
    parse(f"--config={CONFIGS / 'demo.py'}")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match=r"empty\.py"):
        parse(f"--config={tmp_path / 'empty.py'}")
