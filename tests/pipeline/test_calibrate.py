"""`distill calibrate`: of runs that left classes out, through the command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.models import Network, load_model, save_model
from distill_cli.models.heads import shift_logits
from distill_cli.pipeline import calibrate as pipeline
from tests.conftest import Made, Outcome, invoke, tree
from tests.data.pictures import LEFT, TOP, picture
from tests.reliability import Reliability
from tests.saved import weights

Distill = Callable[..., Outcome]
BRIEF = ("--augment", "none", "--epochs", 1, "-b", 16, "--lr", 0.1, "--quiet")
UNIFORM = ("--prior", "uniform")


@pytest.fixture(scope="module")
def without(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student whose transfer set has no 3."""
    run = tmp_path_factory.mktemp("without") / "s"
    omit = ("--omit-class", 3, "--objective", "kd", "--model", "mlp_16x1")
    outcome = invoke("student", "--teachers", made.teacher, *omit, *BRIEF, "--out", run)
    assert outcome.code == 0, outcome.err
    return run


@pytest.fixture
def run(without: Path, here: Path) -> Path:
    """The same, to be written to."""
    return Path(shutil.copytree(without, here / "s"))


@torch.no_grad()
def probabilities(folder: Path, images_NCHW: Tensor) -> Tensor:
    return load_model(folder)(images_NCHW / 255).double().softmax(dim=-1)


def held_out() -> Tensor:
    dataset = open_dataset("digits")
    return torch.cat(list(dataset.val.iter_plain()))


def test_a_class_that_was_left_out(run: Path, distill: Distill) -> None:
    """It has its share of the held-out images, of all classes; only the bias of the classifier differs."""
    before = tree(run / "model", run / "recipe.yaml")
    outcome = distill("calibrate", run, *UNIFORM, "--json")
    assert outcome.code == 0, outcome.err
    assert tree(run / "model", run / "recipe.yaml") == before
    found = json.loads(outcome.out)
    images = held_out()
    masses = [probabilities(run / name, images).mean(dim=0) for name in ("model", "calibrated")]
    assert (found["source"], found["images"]) == ("held-out images", len(images))
    assert [row["class"] for row in found["classes"] if row["chosen"]] == ["3"]
    for label, row in enumerate(found["classes"]):
        assert row["mass_before"] == pytest.approx(float(masses[0][label]), abs=1e-5)
        assert row["mass_after"] == pytest.approx(float(masses[1][label]), abs=1e-5)
    assert found["classes"][3]["mass_after"] == pytest.approx(0.1, abs=1e-6)
    assert abs(float(masses[0][3]) - 0.1) > 1e-4
    assert sum(row["bias"] for row in found["classes"]) == pytest.approx(0, abs=1e-5)
    config = json.loads((run / "calibrated/config.json").read_text())["distill"]
    assert config["extra"]["calibrated"]["classes"] == ["3"]
    assert config["extra"]["calibrated"]["images"] == len(images)
    assert "temperature" not in config
    own, other = weights(run), load_file(run / "calibrated/model.safetensors")
    (name,) = (key for key in own if not torch.equal(own[key], other[key]))
    added = other[name] - own[name]
    listed = torch.tensor([row["bias"] for row in found["classes"]])
    torch.testing.assert_close(added, listed, rtol=0, atol=1e-5)


def test_no_label_is_looked_at(
    run: Path, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poisoned labels of the held-out images change nothing, to the byte."""
    assert distill("calibrate", run, *UNIFORM, "--out", "clean").code == 0
    plain = pipeline.data_of

    def poisoned(*args: object) -> Dataset:
        dataset = plain(*args)  # type: ignore[arg-type]
        wrong = (dataset.val.label_N + 1) % 7
        assert not torch.equal(wrong, dataset.val.label_N)
        return replace(dataset, val=replace(dataset.val, label_N=wrong))

    monkeypatch.setattr(pipeline, "data_of", poisoned)
    assert distill("calibrate", run, *UNIFORM, "--out", "poisoned").code == 0
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (here / "clean" / name).read_bytes() == (here / "poisoned" / name).read_bytes()


def table(folder: Path, labels: str) -> Path:
    """A CSV of images whose labels are as given."""
    names = []
    for number, _ in enumerate(labels):
        names.append(f"{number}.png")
        picture(folder / names[-1], [LEFT] if number % 2 else [TOP], seed=number)
    with (folder / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *zip(names, labels, strict=True)])
    return folder / "all.csv"


def test_labels_of_other_images_change_nothing(run: Path, here: Path, distill: Distill) -> None:
    for name, labels in (("a", "0123012301"), ("b", "9999955555")):
        given = ("--unlabelled", table(here / name, labels), "--out", f"{name}/model")
        outcome = distill("calibrate", run, *UNIFORM, *given)
        assert outcome.code == 0, outcome.err
    one, other = ((here / name / "model/model.safetensors").read_bytes() for name in "ab")
    assert one == other


def test_other_images_and_other_classes(run: Path, here: Path, distill: Distill) -> None:
    """A folder of images without labels, a prior from a file, and every class."""
    folder = here / "more"
    for number in range(30):
        picture(folder / f"{number:02}.png", [LEFT] if number % 3 else [TOP], seed=number)
    shares = {str(label): (label + 1) / 55 for label in range(10)}
    (here / "p.yaml").write_text("".join(f"{k}: {v!r}\n" for k, v in shares.items()))
    rows = [("class", "share"), *reversed(shares.items())]
    with (here / "p.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for name in ("p.yaml", "p.csv"):
        given = ("--prior", name, "--unlabelled", folder, "--all-classes", "--overwrite", "--json")
        outcome = distill("calibrate", run, *given)
        assert outcome.code == 0, outcome.err
        found = json.loads(outcome.out)
        assert (found["images"], found["source"]) == (30, str(folder.name))
        for row in found["classes"]:
            assert row["chosen"]
            assert row["mass_after"] == pytest.approx(shares[row["class"]], abs=1e-6)


def test_what_a_person_reads(run: Path, here: Path, distill: Distill) -> None:
    outcome = distill("calibrate", "s", *UNIFORM, "--classes", "7, 1")
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith("s/calibrated\n")
    assert "mass before" in outcome.out
    assert outcome.out.count("10.0000 %") == 10 + 3
    assert "labels were not looked at" in outcome.err
    page = (run / "calibrated/README.md").read_text()
    assert "mean probability of 1, 3, 7 over" in page
    assert "# s, calibrated" in page


def test_it_is_a_model_like_others(run: Path, here: Path, distill: Distill) -> None:
    """Evaluated on the run's data, asked, a teacher and a start; and gone with the run."""
    assert distill("calibrate", "s", *UNIFORM).code == 0
    outcome = distill("evaluate", "s/calibrated", "--split", "val", "--json")
    assert outcome.code == 0, outcome.err
    right = probabilities(run / "calibrated", held_out()).argmax(dim=-1)
    labels = open_dataset("digits").val.label_N
    assert json.loads(outcome.out)["errors"] == int((right != labels).sum())
    picture(here / "x.png", [LEFT], seed=1)
    assert distill("predict", "s/calibrated", "x.png").code == 0
    learn = (
        "student",
        "--teachers",
        "s/calibrated",
        "--init",
        "s/calibrated",
        "--model",
        "mlp_16x1",
    )
    outcome = distill(*learn, *BRIEF, "--force", "--out", "t")
    assert outcome.code == 0, outcome.err
    again = ("student", "--teachers", "s/calibrated", "--model", "mlp_16x1", "--out", "t")
    assert distill("calibrate", "t", *UNIFORM, "--all-classes").code == 0
    assert distill(*again, *BRIEF, "--force", "--overwrite").code == 0
    assert not (here / "t/calibrated").exists()


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("nowhere", *UNIFORM), 2, "does not exist"),
        (("{run}",), 2, "--prior"),
        (("{plain}", *UNIFORM), 2, "left no class out"),
        (("{run}/model", *UNIFORM), 2, "Give --out"),
        (("{run}", *UNIFORM, "--classes", "12"), 2, "there is no class '12'"),
        (("{run}", *UNIFORM, "--classes", "1", "--all-classes"), 2, "the same thing twice"),
        (("{run}", *UNIFORM, "--out", "{run}/model"), 2, "lies in the run"),
        (("{run}", *UNIFORM, "--out", "{run}"), 2, "which is not of a model"),
        (("{run}", *UNIFORM, "--unlabelled", "digits"), 2, "what the run left 3 out of"),
        (("{run}", *UNIFORM, "--unlabelled", "nowhere"), 2, "--unlabelled nowhere does not exist"),
        (("{run}", "--prior", "nowhere.yaml"), 2, "cannot read prior"),
        (("{run}", "--prior", "nowhere.csv"), 2, "cannot read prior"),
    ],
)
def test_refusals(
    made: Made,
    without: Path,
    here: Path,
    distill: Distill,
    given: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    before = tree(without)
    filled = [word.format(run=without, plain=made.student) for word in given]
    outcome = distill("calibrate", *filled)
    assert outcome.code == code, outcome.err
    assert words in outcome.err
    assert list(here.iterdir()) == []
    assert tree(without) == before


def prior_of(values: dict[str, object]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in values.items())


EVEN: dict[str, object] = {str(label): 0.1 for label in range(10)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (prior_of({**EVEN, "3": 0, "4": 0.2}), "the share of class '3' is 0"),
        (prior_of({**EVEN, "3": ".nan"}), "the share of class '3' is nan"),
        (prior_of({**EVEN, "3": "true"}), "the share of class '3' is True"),
        (prior_of({**EVEN, "3": "[1]"}), "the share of class '3' is [1]"),
        (prior_of({**EVEN, "3": 0.11}), "not 1.01"),
        (prior_of({**EVEN, "x": 0.1}), "there is no class 'x'"),
        (prior_of({str(label): 1 / 9 for label in range(9)}), "class '9' has no share"),
        ("[0.1, 0.9]", "should map each class"),
    ],
)
def test_a_prior_that_is_none(
    without: Path, here: Path, distill: Distill, text: str, words: str
) -> None:
    (here / "p.yaml").write_text(text)
    outcome = distill("calibrate", without, "--prior", "p.yaml", "--out", "m")
    assert (outcome.code, words in outcome.err) == (3, True), outcome.err
    assert not (here / "m").exists()


def test_a_table_of_shares_that_is_none(without: Path, here: Path, distill: Distill) -> None:
    for text, words in (
        ("a,b\n", "first line should be class,share"),
        ("class,share\n1\n", "line 2"),
        ("class,share\n1,0.5\n1,0.5\n", "stands twice"),
        ("class,share\n1,half\n", "is half"),
    ):
        (here / "p.csv").write_text(text)
        outcome = distill("calibrate", without, "--prior", "p.csv", "--out", "m")
        assert (outcome.code, words in outcome.err) == (3, True), outcome.err


def test_images_that_classes_were_left_out_of_elsewhere(here: Path, distill: Distill) -> None:
    """The training images of the run in another folder are known by their ids."""
    for number in range(60):
        split, name = ("test" if number % 10 == 9 else "train"), "abc"[number % 3]
        picture(
            here / "d" / split / name / f"{number}.png",
            [LEFT] if number % 2 else [TOP],
            seed=number,
        )
    train = ("teacher", "train", "--data", "d", "--only-classes", "a,b", "--model", "mlp_8x1")
    assert distill(*train, *BRIEF, "--out", "r").code == 0
    shutil.copytree(here / "d", here / "e")
    outcome = distill("calibrate", "r", *UNIFORM, "--unlabelled", "e")
    assert (outcome.code, "left c out of" in outcome.err) == (2, True), outcome.err
    # To others it may be said, and where no class was left out all may.
    (here / "e/train/c/2.png").unlink()
    assert distill("calibrate", "r", *UNIFORM, "--unlabelled", "e").code == 0


def test_a_model_in_its_place(
    run: Path, here: Path, distill: Distill, reliability: Reliability
) -> None:
    assert distill("calibrate", "s", *UNIFORM).code == 0
    before = tree(run)
    outcome = distill("calibrate", "s", *UNIFORM)
    assert outcome.code == 2
    assert tree(run) == before
    reliability(
        "Folders and paths",
        "a calibrated model is there already",
        "distill calibrate s --prior uniform",
        outcome,
    )
    assert distill("calibrate", "s", *UNIFORM, "--classes", "1", "--overwrite").code == 0
    (here / "s/calibrated/mine.txt").write_text("mine")
    outcome = distill("calibrate", "s", *UNIFORM, "--overwrite")
    assert (outcome.code, "mine.txt" in outcome.err) == (2, True), outcome.err


def test_a_prior_of_nothing(
    without: Path, here: Path, distill: Distill, reliability: Reliability
) -> None:
    (here / "p.yaml").write_text(prior_of({**EVEN, "3": 0, "4": 0.2}))
    outcome = distill("calibrate", without, "--prior", "p.yaml", "--out", "m")
    reliability(
        "Data",
        "a prior that gives a class no share",
        "distill calibrate RUN --prior p.yaml",
        outcome,
    )


def changed(folder: Path, out: Path, change: Callable[[Network], None]) -> Path:
    network = load_model(folder)
    change(network)
    save_model(network, out)
    return out


def test_networks_that_no_bias_can_change(without: Path, here: Path, distill: Distill) -> None:
    def sigmoid(network: Network) -> None:
        network.targets = "sigmoid"

    changed(without, here / "labels", sigmoid)
    given = ("--all-classes", "--out", "m", "--unlabelled", "digits")
    outcome = distill("calibrate", "labels", *UNIFORM, *given)
    assert (outcome.code, "yes or no for each label" in outcome.err) == (2, True), outcome.err
    with pytest.raises(ValueError, match="no bias"):
        shift_logits(nn.Sequential(nn.Linear(4, 3, bias=False)), torch.ones(3))


def test_a_bias_that_does_not_reach_the_logits(
    without: Path, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows the classifier changes its answer: that is seen, and nothing is written."""
    monkeypatch.setattr(pipeline, "shift_logits", lambda net, bias_K: shift_logits(net, 2 * bias_K))
    outcome = distill("calibrate", without, *UNIFORM, "--out", "m")
    assert (outcome.code, "not the sum of its classifier's bias" in outcome.err) == (2, True)
    assert not (here / "m").exists()


def test_a_network_with_gates_and_one_of_two_classifiers() -> None:
    """The bias of DropMax is that of its logits; where answers are a mean, each is moved."""
    import timm

    from distill_cli.models.heads import gate

    bias_K = torch.tensor([1.0, -2.0, 1.0])
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    two = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=3)
    gated = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))
    gate(gated)
    for net in (two.eval(), gated.eval()):
        with torch.no_grad():
            before = net(images)
            shift_logits(net, bias_K)
            torch.testing.assert_close(net(images) - before, bias_K.expand(2, 3), rtol=0, atol=1e-4)
