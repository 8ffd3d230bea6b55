"""The final figures of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

# Equal bins of confidence, (b/15, (b + 1)/15], that calibration is measured in.
ECE_BINS = 15
# The folder inside a run's own that holds the runs of earlier stages.
STAGES = "stages"


@dataclass(frozen=True, kw_only=True)
class PeerResult:
    """The final figures of a network that was trained along, by its best epoch's weights.

    Attributes:
        name: Its name.
        model: Its architecture.
        test_top1: Share of right answers on the test split.
        test_errors: Wrong answers.
        val_top1: Held-out accuracy of its best epoch; None where nothing is held out.
        best_epoch: From 1.
        params: Parameters.
        model_bytes: Size of its model.safetensors.
    """

    name: str
    model: str
    test_top1: float
    test_errors: int
    val_top1: float | None
    best_epoch: int
    params: int
    model_bytes: int

    @classmethod
    def from_json(cls, values: Any) -> PeerResult:
        """The figures from JSON.

        Raises:
            ValueError: They are not as `to_json` of a run has them.
        """
        if not isinstance(values, dict) or values.keys() != {each.name for each in fields(cls)}:
            raise ValueError("a peer has other figures than this version knows")
        for name, value in values.items():
            of = (
                str
                if name in ("name", "model")
                else int | float | None
                if name == "val_top1"
                else int | float
            )
            if not isinstance(value, of) or isinstance(value, bool) or value != value:
                raise ValueError(f"{name} of a peer is {value!r:.80}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The final figures of a run: the keys of result.json.

    Attributes:
        test_top1: Share of right answers on the test split, looked at once, best epoch's weights;
            where several labels may apply to an image, an answer has all of them right.
        test_errors: Wrong answers.
        test_samples: Images of the test split.
        test_nll: Nats; of sigmoid targets, summed over labels.
        test_ece: Expected calibration error, 15 bins; of sigmoid targets, of each yes and no.
        temperature: Fitted on the held-out images after training, 1 where they do not tell it
            from 1; None of sigmoid targets, and where nothing held out is labelled, as the next
            two.
        test_nll_scaled: Nats, the logits divided by it.
        test_ece_scaled: The same.
        test_map: Mean average precision over labels; None of softmax targets, as the next two.
        test_f1: F1 over all yes and no together (micro), yes from a probability of 1/2.
        test_macro_f1: Mean of each label's F1.
        test_coarse_top1: Share of test images whose group is right, where labels are coarse; else None.
        val_top1: Held-out accuracy of the best epoch, of groups where labels are coarse; None where
            nothing is held out.
        val_map: Held-out mean average precision of that epoch; None for softmax targets.
        best_epoch: From 1; the last one where nothing is held out.
        params: Parameters of the network.
        model_bytes: Size of model.safetensors.
        weight_bits: Bits of its weights, in all layers but those that stay as they are; None for fp32, as
            the next two.
        act_bits: Bits of what goes into these layers.
        packed_bytes: Size of the file that `distill export --format packed` writes.
        latency_ms: Median time of one image through the network on the run's device.
        images_per_second: Median over epochs after the first, training steps only.
        seconds: Training and held-out evaluation.
        teacher_agreement: Share of test images with the teacher's class (of sigmoid targets, of
            pairs of image and label with its yes or no); None where unknown.
        teacher_kl: Mean KL(teacher ‖ student) on test at T = 1, nats (of sigmoid targets, summed
            over labels); None where unknown.
        val_teacher_kl: The same on the held-out images: it may choose between runs.
        warnings: What went wrong though the run is done, in words: terms that grew out of all
            proportion, held-out answers no better than chance.
        peers: Figures of networks that were trained along; the key is absent without any.
    """

    test_top1: float
    test_errors: int
    test_samples: int
    test_nll: float
    test_ece: float
    temperature: float | None = None
    test_nll_scaled: float | None = None
    test_ece_scaled: float | None = None
    test_map: float | None = None
    test_f1: float | None = None
    test_macro_f1: float | None = None
    test_coarse_top1: float | None = None
    val_top1: float | None
    val_map: float | None = None
    best_epoch: int
    params: int
    model_bytes: int
    weight_bits: int | None = None
    act_bits: int | None = None
    packed_bytes: int | None = None
    latency_ms: float
    images_per_second: float
    seconds: float
    teacher_agreement: float | None
    teacher_kl: float | None
    val_teacher_kl: float | None = None
    warnings: tuple[str, ...] = ()
    peers: tuple[PeerResult, ...] = ()

    @property
    def scaled(self) -> bool:
        """Whether a temperature is fitted: the scaled figures then differ from the others."""
        return self.temperature is not None and self.temperature != 1

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        values = asdict(self)
        if not self.peers:
            del values["peers"]
        return values


# The figures of a run that are numbers; the others are text.
FIGURES = tuple(each.name for each in fields(RunResult) if each.name not in ("warnings", "peers"))


@dataclass(frozen=True, kw_only=True)
class HintResult:
    """The final figures of a hint-init: the keys of its result.json.

    Its classifier is not trained yet, so that nothing is said of test.

    Attributes:
        val_hint: Held-out hint loss of the best epoch; None where nothing is held out.
        best_epoch: From 1.
        params: Parameters of the student.
        regressor_params: Parameters of the regressors, which are not kept.
        images_per_second: Median over epochs after the first, training steps only.
        seconds: Training and held-out evaluation.
        warnings: Terms that grew out of all proportion, in words.
    """

    val_hint: float | None
    best_epoch: int
    params: int
    regressor_params: int
    images_per_second: float
    seconds: float
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)
