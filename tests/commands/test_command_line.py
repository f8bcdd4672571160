"""The command line in this process: configs from flags, errors, exit statuses."""

import itertools
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest
from absl import flags

import cfx_jax
from cfx_jax.commands import command_line
from cfx_jax.config import ClassifierConfig, Config, ConfigError
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.records import RecordsError
from cfx_jax.runs.preemption import StoppedError
from cfx_jax.train.config import TrainClassifierConfig, TrainConfig

# Of ml_collections, when it loads a config file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def parse(*arguments, config_type=Config, default_name="demo", values=None):
    values = flags.FlagValues() if values is None else values
    return command_line.parse_command(["program", *arguments], config_type, default_name, values)


@pytest.mark.parametrize("file", [[], [f"--config={CONFIGS}/demo.py"]])
def test_parse_overrides_fields_of_every_type(file):
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
def test_parse_reads_tuples_as_python_or_repeated_flags(file, given, expected):
    arguments = [f"--config.baselines={text}" for text in given]
    config, _, _ = parse(*file, *arguments, config_type=EvaluateConfig)
    assert config.baselines == expected


def test_parse_reads_transfer_classifiers_with_their_weights():
    config, _, _ = parse(
        "--config.transfer.classifiers=vit_b16",
        "--config.transfer.classifiers=resnet18=a=b.pth",
        config_type=EvaluateConfig,
    )
    assert config.transfer.sections() == {
        "vit_b16": ClassifierConfig("vit_b16"),
        "resnet18": ClassifierConfig("resnet18", "a=b.pth"),
    }


def test_parse_without_flags_gives_the_default_config():
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
        (["--config.explain.num_steps=many"], r"^flag --config\.explain\.num_steps=many: "),
        (["--config=no/such/file.py"], r"no/such/file\.py: no such file; .*--config=demo: demo, "),
        (["--config", "no/such/file.py"], r"no/such/file\.py: no such file"),
        (["--config=configs/imagenet.py"], r"no such file; .*as --config=demo: demo, .*imagenet, "),
        (["--config={tmp}"], "is a folder; .*by name"),
        (["--config="], "--config=: is a folder|no such file"),
        (["--config={tmp}/empty.py"], r"empty\.py: AttributeError: .*get_config"),
        (["--config={tmp}/fails.py"], r"fails\.py: KeyError: 'colour'"),
        (["--config={tmp}/text.py"], r"text\.py: SyntaxError: "),
        (["--config={tmp}/ends.py"], r"ends\.py: SystemExit: 0"),
        (
            ["--config={tmp}/wrong.py"],
            r"wrong\.py: its .* returns a dict, not the Config of",
        ),
        (["--config=train_gated_unet"], "returns a TrainConfig, not the Config of this command"),
        (["--confg=configs/demo.py"], "^Unknown command line flag 'confg'"),
    ],
)
def test_parse_reports_wrong_flags_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "text.py").write_text("not\n\n a program")
    (tmp_path / "ends.py").write_text("raise SystemExit(0)")
    (tmp_path / "fails.py").write_text("def get_config():\n    return {}['colour']\n")
    (tmp_path / "wrong.py").write_text("def get_config():\n    return {}\n")
    with pytest.raises(ConfigError, match=message) as raised:
        parse(*(text.format(tmp=tmp_path) for text in arguments))
    assert "\n" not in str(raised.value)


def test_parse_of_a_training_lists_the_config_files():
    known = "train_contextual_attention, train_gated_unet, train_vae_mnist"
    with pytest.raises(ConfigError, match=rf"^no --config is given; expected .*\({known}\) or a "):
        parse(config_type=TrainConfig, default_name="")
    with pytest.raises(ConfigError, match=r"^Unknown.*config\.seed"):
        parse("--config.seed=1", config_type=TrainConfig, default_name="")


@pytest.mark.parametrize("given", [["--config=mnist"], ["--config", "mnist"], ["-config=mnist"]])
def test_parse_finds_a_packaged_config_by_name(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, workdir, _ = parse(*given, "--config.seed=3")
    assert (config.classifier.name, config.seed, workdir) == ("mnist_cnn", 3, "runs/mnist")
    # A file of the same name comes first: it is what the shell completes.
    (tmp_path / "mnist").write_text("from cfx_jax.config import Config\nget_config = Config\n")
    assert parse(*given)[0] == Config()


def test_packaged_configs_cover_every_config_file():
    names = {path.stem for path in CONFIGS.glob("*.py")}
    assert set(command_line.packaged_configs()) == names
    types = (Config, EvaluateConfig, TrainConfig, TrainClassifierConfig)
    of_types = [command_line.packaged_configs(config_type) for config_type in types]
    assert sorted(itertools.chain(*of_types)) == sorted(names)


def test_packaged_configs_are_installed(tmp_path):
    command = ["setup.py", "-q", "egg_info", f"--egg-base={tmp_path}", "build_py"]
    subprocess.run(
        [sys.executable, *command, f"--build-lib={tmp_path}/lib"], cwd=CONFIGS.parent, check=True
    )
    code = (
        "from cfx_jax.commands.command_line import packaged_configs as configs\n"
        "print(*configs().values())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "lib")},
    ).stdout.split()  # fmt: skip
    assert {pathlib.Path(path).parent for path in found} == {tmp_path / "lib/cfx_jax/configs"}
    assert {pathlib.Path(path).name for path in found} == {p.name for p in CONFIGS.glob("*.py")}


def test_expand_home_replaces_a_tilde_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text(
        "from cfx_jax.config import Config, DataConfig\n"
        "def get_config() -> Config:\n    return Config(data=DataConfig(path='~/images'))\n"
    )
    config, workdir, _ = parse(
        "--config=~/mine.py", "--workdir=~/runs", "--config.classifier.weights=~/a~b.pth"
    )
    assert (workdir, config.data.path) == (f"{tmp_path}/runs", f"{tmp_path}/images")
    assert config.classifier.weights == f"{tmp_path}/a~b.pth"
    config, _, _ = parse(
        "--config.transfer.classifiers=vit_b16=~/b.npz", config_type=EvaluateConfig
    )
    assert config.transfer.sections()["vit_b16"].weights == f"{tmp_path}/b.npz"
    argv = ["export", "~", "--to=~", "--to=a~/b", "--to=~no.one/x", "x=1"]
    assert command_line.expand_home(argv) == [*argv[:2], f"--to={tmp_path}", *argv[3:]]


def test_parse_refuses_the_flags_of_a_second_command():
    values = flags.FlagValues()
    parse(values=values)
    with pytest.raises(ConfigError, match="'config' is defined twice"):
        parse(values=values)


def test_main_module_help_lists_the_flags():
    values = flags.FlagValues()
    parse(values=values)
    shown = values.main_module_help()
    assert "--config:" in shown
    assert "--workdir:" in shown
    assert "imagenet_paper, mnist)" in " ".join(shown.split())


def end(main):
    """Returns the exit status of a command."""
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            command_line.exit_with(main)
    finally:
        signal.signal(signal.SIGINT, before)
    return ended.value.code


def test_exit_with_names_a_deleted_working_directory(tmp_path, monkeypatch, capsys):
    (tmp_path / "deleted").mkdir()
    monkeypatch.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()
    assert end(lambda: 0) == 2
    assert capsys.readouterr().err == (
        "error: the working directory was deleted; change to a directory that exists\n"
    )


def test_exit_with_ends_the_same_after_a_second_interrupt():
    code = """
import atexit, signal, time
from cfx_jax.commands import command_line
# One that was started in the background would ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(time.sleep, 2)
print(1)
command_line.exit_with(lambda: time.sleep(60))
"""
    command = [sys.executable, "-uc", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "1\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        output = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        output += process.stderr.read()
    assert output == "interrupted; resume with the same command\n"
    assert process.returncode == 130


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
        (KeyboardInterrupt(), 130, "interrupted; resume with the same command\n"),
    ],
)
def test_exit_with_gives_one_message_and_an_exit_status(error, code, printed, capsys):
    assert end(fail_with(error)) == code
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, UnicodeError, AssertionError])
def test_exit_with_keeps_the_traceback_of_an_internal_error(kind, capsys):
    with pytest.raises(kind, match="a bug") as raised:
        command_line.exit_with(fail_with(kind("a bug")))
    (note,) = raised.value.__notes__
    assert note.startswith(f"This is a fault of cfx_jax {cfx_jax.__version__}, not of your input")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("cannot allocate"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB\n at x"),
    ],
)
def test_exit_with_reports_too_little_memory_as_a_user_error(error, capsys):
    assert end(fail_with(error)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory; expected a smaller batch")


def test_exit_with_reports_an_unencodable_text_as_a_user_error(capsys, monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    assert end(lambda: "\udcc3".encode()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a name or a text cannot be written in iso8859-1; set PYTHONUTF8")


def test_exit_with_shows_the_log_and_the_status(capsys):
    def main(status):
        logging.getLogger("cfx_jax.somewhere").warning("careful")
        return status

    assert end(lambda: main(1)) == 1
    assert not end(lambda: main(None))
    assert capsys.readouterr().err == 2 * "warning: careful\n"


def test_parse_does_not_share_state_between_config_files(tmp_path):
    parse(f"--config={CONFIGS / 'demo.py'}")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match=r"empty\.py"):
        parse(f"--config={tmp_path / 'empty.py'}")
