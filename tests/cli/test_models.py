"""The command `model`: what it says of a model, what it writes, and what it refuses, each with its exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from headwater.core.models import autoencoder, cnn1d, mlp


def headwater(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    return subprocess.run(
        [sys.executable, "-m", "headwater.cli.main", *arguments],
        cwd=cwd,
        env=kept | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "cnn.onnx").write_bytes(cnn1d(6, 32, 7, (8, 16), 5, rng=rng, batch_norm=True))
    (tmp_path / "auto.onnx").write_bytes(autoencoder(6, (4,), 2, rng=rng))
    return tmp_path


def odd(batch: int | str, opset: int) -> bytes:
    """As another exporter would write it: a fixed batch, an old opset, something unused, one bias for two layers."""
    weights = {"w1": (4, 3), "w2": (3, 3), "b": (3,), "spare": (2,)}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b"], ["h"], "one"),
            helper.make_node("Dropout", ["h"], ["d"], "drop"),
            helper.make_node("Gemm", ["d", "w2", "b"], ["s"], "two"),
            helper.make_node("Sum", ["s", "h", "d"], ["y"], "all"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.full(shape, 0.5, np.float32), name) for name, shape in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["model"], "Check, import and draw"),
        (["model", "check"], "Example: headwater model check"),
        (["model", "import"], "Example: headwater model import"),
        (["model", "draw"], "Example: headwater model draw"),
    ],
)
def test_every_level_explains_itself(command: list[str], says: str, tmp_path: Path) -> None:
    done = headwater(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert says in done.stdout


def test_check_says_in_plain_words_what_trains_and_what_it_costs(folder: Path) -> None:
    done = headwater("model", "check", "cnn.onnx", "--frozen", "block1.weight", "--personal", "head.*", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "cnn.onnx: can be trained" in done.stdout
    assert "x [6, 32], a label of 7 classes (cross_entropy)" in done.stdout
    assert "parameters  1095: 688 train, 48 running statistics, 240 frozen, 119 personal" in done.stdout
    assert "kB up" in done.stdout
    rows = {line.split()[-2]: line for line in done.stdout.splitlines() if "running_mean" in line}
    assert all(line.endswith("running statistic") for line in rows.values())


def test_check_tells_a_program_the_same(folder: Path) -> None:
    told = json.loads(headwater("model", "check", "cnn.onnx", "--batch", "8", "--json", cwd=folder).stdout)
    assert told["trains"] is True
    assert told["parameters"] == {
        "all": 1095,
        "train": 1047,
        "running statistics": 48,
        "frozen": 0,
        "personal": 0,
    }
    assert told["step_operations"] == 3 * 8 * told["forward_operations"]
    assert told["gradients"]["worst"] < 2e-3
    assert set(told["graph_bytes"]) == {"train", "evaluate", "infer"}


def test_an_optimiser_with_slots_takes_more_memory(folder: Path) -> None:
    sgd, adam = (
        json.loads(headwater("model", "check", "cnn.onnx", "--optimiser", name, "--json", cwd=folder).stdout)
        for name in ("sgd", "adam")
    )
    assert adam["step_memory_bytes"] > sgd["step_memory_bytes"]


def refused() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["h"], "dense"), helper.make_node("Sinh", ["h"], ["y"], "wave")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ones((2, 2), np.float32), "w")],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(
            ["check", "wave.onnx"], 6, "wave.onnx: node 'wave': operator Sinh cannot be trained yet", id="operator"
        ),
        pytest.param(["import", "wave.onnx"], 6, "wave.onnx: node 'wave': operator Sinh", id="operator at import"),
        pytest.param(["draw", "wave.onnx"], 6, "wave.onnx: node 'wave': operator Sinh", id="operator at draw"),
        pytest.param(["check", "text.onnx"], 6, "text.onnx: model: not a valid ONNX model (", id="no model"),
        pytest.param(["import", "text.onnx"], 6, "; export it anew, as one .onnx file", id="no model at import"),
        pytest.param(["check", "none.onnx"], 2, "none.onnx: No such file", id="no file"),
        pytest.param(["check", "cnn.onnx", "--objective", "mxe"], 2, "'mxe' is none of cross_entropy", id="objective"),
        pytest.param(["check", "cnn.onnx", "--objective", "reconstruction"], 6, "reconstruction needs", id="shape"),
        pytest.param(["check", "cnn.onnx", "--classes", "3"], 6, "3", id="classes"),
        pytest.param(["check", "cnn.onnx", "--frozen", "*"], 6, "every parameter is frozen", id="all frozen"),
        pytest.param(["draw", "cnn.onnx", "--output", "a.gif"], 2, "no known ending; take one of .txt", id="ending"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(folder: Path, arguments: list[str], code: int, says: str) -> None:
    (folder / "wave.onnx").write_bytes(refused())
    (folder / "text.onnx").write_text("no model")
    done = headwater("model", *arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "wave").exists()


@pytest.mark.parametrize(("batch", "opset"), [(1, 13), ("n", 18)])
def test_import_writes_a_model_that_predicts_the_same_and_a_run_that_starts(
    folder: Path, batch: int | str, opset: int
) -> None:
    (folder / "odd.onnx").write_bytes(odd(batch, opset))
    done = headwater("model", "import", "odd.onnx", "--name", "bearings", "--data", "vibration", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert ("the batch was fixed at 1" in done.stdout) == (batch == 1)
    assert ("opset 13 became 18" in done.stdout) == (opset == 13)
    assert "left out, for nothing uses them: spare" in done.stdout
    assert "said with other operators: 1 Sum" in done.stdout
    assert "parameter 'b' is one for one, two" in done.stdout
    x = np.random.default_rng(1).normal(0, 1, (5, 4)).astype(np.float32)
    before = ort.InferenceSession(odd("n", 18), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    written = folder / "bearings" / "model.onnx"
    after = ort.InferenceSession(written.read_bytes(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert any(node.op_type == "Dropout" for node in onnx.load(written).graph.node)
    started = headwater("run", "start", "bearings/run.toml", "--json", cwd=folder)
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["name"] == "bearings"


def test_import_of_an_autoencoder_asks_for_no_classes(folder: Path) -> None:
    done = headwater("model", "import", "auto.onnx", "--objective", "reconstruction", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "nothing had to change" in done.stdout
    assert "classes" not in (folder / "auto" / "run.toml").read_text()
    assert headwater("run", "start", "auto/run.toml", cwd=folder).returncode == 0


def test_import_overwrites_nothing(folder: Path) -> None:
    (folder / "cnn").mkdir()
    (folder / "cnn" / "run.toml").write_text("mine")
    done = headwater("model", "import", "cnn.onnx", cwd=folder)
    assert done.returncode == 2
    assert "cnn/run.toml is there already" in done.stderr
    assert [path.name for path in (folder / "cnn").iterdir()] == ["run.toml"]
    own = headwater("model", "import", "cnn.onnx", "--output", "cnn.onnx", cwd=folder)
    assert own.returncode == 2


def test_a_drawing_goes_to_the_terminal_or_to_a_file_of_its_kind(folder: Path) -> None:
    shown = headwater("model", "draw", "cnn.onnx", cwd=folder)
    assert "block1       Conv                [8, 32]   weight [8, 6, 5] = 240" in shown.stdout
    for ending, begins in ((".mmd", "flowchart TD"), (".dot", "digraph model"), (".txt", "x ")):
        assert headwater("model", "draw", "cnn.onnx", "--output", f"a{ending}", cwd=folder).returncode == 0
        assert (folder / f"a{ending}").read_text().startswith(begins)


def test_a_picture_is_graphvizs(folder: Path) -> None:
    program = folder / "dot"
    program.write_text('#!/bin/sh\n[ "$1" = -Tsvg ] || exit 1\ncat >/dev/null\necho "<svg/>"\n')
    program.chmod(0o755)
    script = "import sys\nsys.argv = ['headwater', 'model', 'draw', 'cnn.onnx', '--output', 'a.svg']\n"
    script += "from headwater.cli.main import main\nsys.exit(main())\n"
    for path, code in ((str(folder), 0), (str(folder / "nowhere"), 2)):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=folder,
            env={**os.environ, "PATH": path + (":/bin" if code == 0 else "")},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == code, done.stderr
    assert (folder / "a.svg").read_text() == "<svg/>\n"
    assert "needs Graphviz's dot" in done.stderr


def test_a_model_without_a_hidden_layer_is_small(folder: Path) -> None:
    (folder / "l.onnx").write_bytes(mlp(4, (), 2, rng=np.random.default_rng(0)))
    told = json.loads(headwater("model", "check", "l.onnx", "--json", cwd=folder).stdout)
    assert (told["forward_operations"], told["parameters"]["all"]) == (16, 10)
