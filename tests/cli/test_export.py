"""`distill export`: packed folders and ONNX files of runs, through the command line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_cli.models import load_model
from tests.conftest import Made, Outcome, invoke, tree
from tests.kills import kept, kill, writes_of
from tests.processes import start
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
MLP = ("--data", "digits", "--model", "mlp_16x3", "--epochs", 2, "-b", 64, "--lr", 0.1)
QUIET = ("--precision", "fp32", "--quiet", "--augment", "none")
FILES = ("config.json", "packed.safetensors")
HAS_ONNX = all(map(find_spec, ("onnx", "onnxruntime", "onnxscript")))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="pip install 'distill-cli[onnx]'")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ternary weights, its last layer of 8 bits."""
    run = tmp_path_factory.mktemp("few") / "s"
    flags = ("--quantizer", "ternary", "--last-layer-bits", 8)
    outcome = invoke("teacher", "train", *MLP, *QUIET, *flags, "--out", run)
    assert outcome.code == 0, outcome.err
    return run


@pytest.fixture
def run(few: Path, here: Path) -> Path:
    """The same, to be written to."""
    return Path(shutil.copytree(few, "s"))


def one_line(outcome: Outcome) -> str:
    return " ".join(outcome.err.split())


def figures(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return {key: value for key, value in found.items() if key not in ("run", "latency_ms")}


def test_a_packed_run_is_the_run(run: Path, distill: Distill) -> None:
    """As it is evaluated, taught from, and counted: the run knows the size before it is packed."""
    before = tree(run / "model", run / "result.json")
    outcome = distill("export", run, "--format", "packed", "--json")
    assert outcome.code == 0, outcome.err
    assert tree(run / "model", run / "result.json") == before
    said, result = json.loads(outcome.out), json.loads((run / "result.json").read_text())
    size = (run / "packed/packed.safetensors").stat().st_size
    assert (result["packed_bytes"], said["bytes"]) == (size, size)
    assert said["plain_bytes"] == result["model_bytes"]
    assert (result["weight_bits"], result["act_bits"]) == (2, None)
    packed = [(layer["quantizer"], layer["bits"], layer["bytes"]) for layer in said["layers"]]
    assert packed == [("ternary", 2, 64), ("ternary", 2, 64), ("lsq", 8, 160)]
    one = figures(distill("evaluate", run, "--split", "val", "--json"))
    assert figures(distill("evaluate", run / "packed", "--split", "val", "--json")) == one
    student = ("student", "--teachers", run / "packed", *MLP[:4], "--epochs", 1, *QUIET)
    outcome = distill(*student, "--data", "digits", "--out", "t")
    assert outcome.code == 0, outcome.err
    outcome = distill("teacher", "train", "--data", "digits", "--init", run / "packed", "--dry-run")
    assert outcome.code == 0, outcome.err


def test_what_is_there_is_not_replaced_unasked(
    run: Path, distill: Distill, reliability: Reliability
) -> None:
    export, typed = ("export", run, "--format", "packed"), "distill export s --format packed"
    assert distill(*export).out.splitlines()[-1] == "s/packed"
    outcome = distill(*export)
    assert outcome.code == 2
    reliability("Folders and paths", "packed weights are there already", typed, outcome)
    for flags in ((), ("--overwrite",)):
        shutil.copytree(run / "model", "m", dirs_exist_ok=True)
        outcome = distill(*export, "--out", "m", *flags)
        assert outcome.code == 2
        assert "m holds README.md, which is not of a packed model" in one_line(outcome)
        prior = ("--prior", "uniform", "--out", run / "packed")
        outcome = distill("calibrate", run, *prior, *flags)
        assert (outcome.code, "lies in the run" in one_line(outcome)) == (2, True)
    assert distill(*export, "--overwrite").code == 0
    assert distill("export", run / "model", "--format", "packed").code == 2
    assert distill("export", run / "model", "--format", "packed", "--out", "p").code == 0
    for name in FILES:
        assert (Path("p") / name).read_bytes() == (run / "packed" / name).read_bytes()
    outcome = distill(*export, "--out", run / "model", "--overwrite")
    assert outcome.code == 2, "the model itself would be replaced"
    outcome = distill("teacher", "train", *MLP, *QUIET, "--epochs", 1, "--out", run, "--overwrite")
    assert outcome.code == 0, outcome.err
    assert not (run / "packed").exists(), "it was of the run before"


def test_fp32_weights_are_refused(
    here: Path, made: Made, distill: Distill, reliability: Reliability
) -> None:
    shutil.copytree(made.student, "t")
    outcome = distill("export", "t", "--format", "packed")
    assert outcome.code == 2
    assert not Path("t/packed/config.json").exists()
    command = "distill export t --format packed"
    reliability("Models and checkpoints", "a network without few bits", command, outcome)


def test_a_truncated_packed_file(run: Path, distill: Distill, reliability: Reliability) -> None:
    assert distill("export", run, "--format", "packed").code == 0
    path = run / "packed/packed.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    outcome = distill("evaluate", run / "packed")
    assert outcome.code == 3
    fault, command = "a packed file without its end", "distill evaluate s/packed"
    reliability("Models and checkpoints", fault, command, outcome)


EDITED: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda layers: layers["layers.1"].update(scale=None), "no scale"),
    (lambda layers: layers["layers.1"].update(scale=-0.5), "no scale"),
    (lambda layers: layers["layers.1"].update(quantizer="octal"), "no quantizer"),
    (lambda layers: layers["layers.1"].pop("quantizer"), "quantizer"),
    (
        lambda layers: layers["layers.1"].update(quantizer="binary", scale=None),
        "between the levels",
    ),
    (lambda layers: layers.update(other=layers.pop("layers.1")), "a layer other"),
]


@pytest.mark.parametrize(("edit", "text"), EDITED, ids=[text for _, text in EDITED])
def test_an_edited_config_is_refused(
    run: Path, distill: Distill, edit: Callable[[dict[str, Any]], Any], text: str
) -> None:
    path = run / "model/config.json"
    config = json.loads(path.read_text())
    edit(config["distill"]["quantised"]["layers"])
    config["distill"].pop("checksum", None)
    path.write_text(json.dumps(config))
    outcome = distill("export", run, "--format", "packed")
    assert outcome.code == 3, outcome.err
    assert text in one_line(outcome)
    assert not (run / "packed/config.json").exists()


def test_a_full_disk_leaves_no_half_of_a_packed_folder(
    run: Path, distill: Distill, reliability: Reliability
) -> None:
    """Whatever is there afterwards is no model, or the whole."""
    for limit in (1000, 4000):
        shutil.rmtree(run / "packed", ignore_errors=True)
        ended = start("export", run, "--format", "packed", limit=limit).end()
        assert (ended.code, b"disk full" in ended.err) == (1, True), ended.err
        assert not (run / "packed/config.json").exists()
    assert distill("export", run, "--format", "packed").code == 0
    reliability(
        *("Kills, disks and streams", "the disk is full while weights are packed"),
        "distill export s --format packed",
        Outcome(ended.code, "", ended.err.decode()),
    )


def test_a_kill_leaves_no_half_of_a_packed_folder(
    run: Path, distill: Distill, reliability: Reliability
) -> None:
    """Killed at each write of an export that replaces another: it is whole, or none until the next one."""
    export = ("export", run, "--format", "packed", "--overwrite")
    assert distill(*export).code == 0
    whole = kept(run / "packed")
    watched = run.absolute()
    writes = writes_of(export, watched)
    assert [name for _, name in writes if name.endswith((".safetensors", ".json"))]
    for number in range(1, len(writes) + 1):
        kill(export, watched, number)
        found = kept_by(run / "packed")
        assert "config.json" not in found or found == whole, writes[number - 1]
        outcome = distill(*export)
        assert outcome.code == 0, outcome.err
        assert kept(run / "packed") == whole
    reliability(
        *("Kills, disks and streams", "killed between any two writes of an export"),
        *("distill export s --format packed --overwrite", Outcome(0, "", "")),
        message="the bytes of an unbroken export",
    )


def kept_by(folder: Path) -> dict[str, Any]:
    """The same, whatever a kill left of what it was writing."""
    for path in folder.glob(".tmp*"):
        path.unlink()
    return kept(folder)


CONTRADICTIONS = [
    (("--format", "packed", "--int8"), "--int8 goes with --format onnx"),
    (("--format", "packed", "--data", "digits"), "--data goes with --format onnx"),
    (("--format", "onnx", "--calibrate", 9), "--calibrate goes with --int8"),
    (("--format", "onnx", "--out", "."), "it is a folder"),
    (("--format", "timm"), "--format"),
]


@pytest.mark.parametrize(("flags", "text"), CONTRADICTIONS, ids=lambda value: str(value)[:40])
def test_what_means_nothing_is_refused(
    few: Path, here: Path, distill: Distill, flags: tuple[Any, ...], text: str
) -> None:
    outcome = distill("export", few, *flags)
    assert outcome.code == 2, outcome.err
    assert text in one_line(outcome)


def test_onnx_takes_no_place_that_is_not_its_own(
    run: Path, made: Made, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but an ONNX file is replaced, and none is put into a run but under the run's own names."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    shutil.copytree(made.teacher, "t")
    (run / "model.onnx").write_text("of before")
    Path("elsewhere.onnx").symlink_to(run / "result.json")
    before = tree(run, Path("t"))
    export = ("export", run, "--format", "onnx")
    refused = {
        **dict.fromkeys(
            ("s/model/model.safetensors", "s/result.json", "t/last/checkpoint.pt"), "is no name"
        ),
        "elsewhere.onnx": "is no name",
        **dict.fromkeys(("s/model/a.onnx", "s/a.onnx", "t/model.onnx"), "lies in the run"),
    }
    for out, text in refused.items():
        for flags in ((), ("--overwrite",)):
            outcome = distill(*export, "--out", out, *flags)
            assert outcome.code == 2, outcome.err
            assert text in one_line(outcome)
    outcome = distill(*export)
    assert (outcome.code, "is there already" in one_line(outcome)) == (2, True)
    # What may be written comes as far as the packages, which are missing here.
    for flags in (("--overwrite",), ("--out", "s/model-int8.onnx"), ("--out", "new/a.onnx")):
        assert "onnxscript" in one_line(distill(*export, *flags))
    assert tree(run, Path("t")) == before


def test_the_extra_is_not_installed(
    run: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, reliability: Reliability
) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    outcome = distill("export", run, "--format", "onnx")
    assert outcome.code == 2
    fault = "the packages of ONNX are not installed"
    reliability("Usage and recipes", fault, "distill export s --format onnx", outcome)


def test_compared_by_bytes(
    run: Path, made: Made, distill: Distill, reliability: Reliability
) -> None:
    shutil.copytree(made.teacher, "full")
    outcome = distill("compare", "full", run)
    assert outcome.code == 0, outcome.err
    assert "bits" in outcome.out.splitlines()[0]
    assert "Pareto front" in outcome.out
    groups = json.loads(distill("compare", "full", run, "--json").out)
    full, small = groups
    assert small["figures"]["weight_bits"]["mean"] == 2
    assert small["bytes"] == json.loads((run / "result.json").read_text())["packed_bytes"]
    assert full["bytes"] == json.loads(Path("full/result.json").read_text())["model_bytes"]
    assert any(group["on_front"] for group in groups)
    assert distill("compare", "full", run, "--html", "page.html").code == 0
    assert "Accuracy and bytes" in Path("page.html").read_text()
    assert distill("report", run).code == 0
    assert "2</" in (run / "report.html").read_text()
    assert "--format packed" in (run / "MODEL_CARD.md").read_text()


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True])
def test_onnx_answers_as_the_network(run: Path, distill: Distill, int8: bool) -> None:
    """In another runtime, of any number of images, which are not normalised before."""
    import onnxruntime

    flags = ("--int8", "--calibrate", 300, "--require-agreement", 0.8) if int8 else ()
    outcome = distill("export", run, "--format", "onnx", *flags, "--json")
    assert outcome.code == 0, outcome.err
    said, path = json.loads(outcome.out), run / ("model-int8.onnx" if int8 else "model.onnx")
    content = path.read_bytes()
    assert (said["bytes"], said["out"]) == (len(content), str(path))
    assert said["calibrated_on"] == (300 if int8 else None)
    for part in (b"site-packages", str(Path(__file__).parents[2]).encode(), b"/tmp"):
        assert part not in content, "a path of this machine"
    session = onnxruntime.InferenceSession(content)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["distill"])
    network = load_model(run)
    assert facts["class_names"] == list(network.class_names)
    assert "not normalised" in facts["input"]
    images = torch.rand(7, 1, 8, 8)
    with torch.no_grad():
        exact = network(images)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    off = float((torch.from_numpy(logits) - exact).abs().max())
    assert (off < 1.0) if int8 else (off < 1e-4)
    top1 = json.loads((run / "result.json").read_text())["val_top1"]
    assert said["original_top1"] == pytest.approx(top1)
    if not int8:
        assert (said["agreement"], said["top1"]) == (1, said["original_top1"])
    before = path.read_bytes()
    outcome = distill("export", run, "--format", "onnx", *flags)
    assert (outcome.code, path.read_bytes() == before) == (2, True)


@needs_onnx
@pytest.mark.slow
def test_onnx_that_answers_otherwise_is_not_written(
    run: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, reliability: Reliability
) -> None:
    from distill_cli.pipeline.export import onnx_export

    plain = onnx_export.int8_of
    # As if the images that set the ranges were of another world: black ones.
    monkeypatch.setattr(
        onnx_export,
        "int8_of",
        lambda model, batches, fitted: plain(model, (0 * batch for batch in batches), fitted),
    )
    outcome = distill("export", run, "--format", "onnx", "--int8")
    assert outcome.code == 3
    assert not (run / "model-int8.onnx").exists()
    fault, command = "INT8 that answers otherwise", "distill export s --format onnx --int8"
    reliability("Models and checkpoints", fault, command, outcome)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["lsq", "wrpn", "ternary"])
def test_onnx_of_a_network_of_quantised_activations(
    here: Path, distill: Distill, quantizer: str
) -> None:
    """And of a packed folder: an image's levels are those of the network, behind residual blocks too."""
    net = ("--data", "digits", "--model", "cifar_resnet8", "--epochs", 1, "--limit", 512)
    few = ("--weight-bits", 2, "--act-bits", 4, "--quantizer", quantizer, "--out", "r")
    assert distill("teacher", "train", *net, *QUIET, *few).code == 0
    assert distill("export", "r", "--format", "packed").code == 0
    outcome = distill("export", "r/packed", "--format", "onnx", "--out", "r.onnx", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["agreement"] >= 0.99


@needs_onnx
def test_a_graph_that_the_runtime_does_not_take(
    run: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    from distill_cli.pipeline.export import onnx_export

    info = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["lost"], ["logits"])
    graph = onnx.helper.make_graph([node], "g", [], [info])
    broken = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    monkeypatch.setattr(onnx_export, "onnx_of", lambda folder, network: broken)
    outcome = distill("export", run, "--format", "onnx")
    assert outcome.code == 3, outcome.err
    assert "ONNX Runtime does not take" in one_line(outcome)
    assert not (run / "model.onnx").exists()
