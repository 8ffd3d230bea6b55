"""README.md of a model folder: what others need who have no other file of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from distill_cli.errors import counted
from distill_cli.report.format import count, markdown, markdown_code, share, short_name
from distill_cli.types import RunResult

# distill's own architectures are timm's only once they are registered.
OWN = "distill_"
# Classes that a page names.
NAMED = 10


def model_readme(recipe: Mapping[str, Any], result: RunResult, config: Mapping[str, Any]) -> str:
    """What the model is, takes and says, and how timm loads it; Markdown with a YAML head.

    Args:
        recipe: Every key of recipe.yaml; paths in it are shown by their last part only.
        result: The run's figures.
        config: config.json of the model.
    """
    model, data = short_name(str(recipe.get("model"))), short_name(str(recipe.get("data")))
    about = (
        f"An image classifier of {count(result.params)} parameters for "
        f"{counted(config['num_classes'], 'class', 'classes')} (`label_names` of config.json), "
        f"architecture {markdown_code(config['architecture'])}. Test accuracy: "
        f"{share(result.test_top1)} of {counted(result.test_samples, 'image')}."
    )
    return _page(config, f"{markdown(model)} on {markdown(data)}", about)


def calibrated_readme(run: str, config: Mapping[str, Any]) -> str:
    """The description of a model with biases that match a prior, and how they came about.

    Args:
        run: The run or model that it was made of.
        config: config.json of the model, with `calibrated` among what is kept beside.
    """
    facts = config["distill"]["extra"]["calibrated"]
    name, chosen, classes = markdown(short_name(run)), facts["classes"], config["num_classes"]
    named = "all classes" if len(chosen) == classes else ", ".join(map(markdown, chosen[:NAMED]))
    more = f" and {len(chosen) - NAMED:,} more" if NAMED < len(chosen) < classes else ""
    about = (
        f"The network of {name}, and a bias that was added to its logits: so that the mean probability "
        f"of {named}{more} over {counted(facts['images'], 'image')} ({markdown(facts['source'])}) is "
        f"the share that they were said to have (prior: {markdown(facts['prior_from'])}). No label was "
        "looked at, and no test image. `distill.extra.calibrated` of config.json has the shares, the mean "
        "probabilities before and after, and the biases. A temperature that the network had was left "
        "out: it was fitted to other logits."
    )
    return _page(config, f"{name}, calibrated", about)


def _page(config: Mapping[str, Any], title: str, about: str) -> str:
    """The page, from its head to how timm loads the model."""
    timms = config["distill"]["library"] == "timm"
    head = {
        "pipeline_tag": "image-classification",
        **({"library_name": "timm"} if timms else {}),
        "tags": ["image-classification", *(["timm"] if timms else []), "distill"],
        "metrics": ["accuracy"],
    }
    lines = [
        *("---", yaml.safe_dump(head, sort_keys=False).rstrip(), "---", ""),
        *(f"# {title}", "", about),
        *("", "## Images", "", *takes(config)),
        *("", "## Probabilities", "", says(config)),
    ]
    return "\n".join([*lines, "", "## Use", "", *_use(config, timms=timms), ""])


def takes(config: Mapping[str, Any]) -> list[str]:
    """How a file's picture becomes what the network takes, in the order of the steps."""
    ours = config["distill"]
    channels, height, width = ours["input_size"]
    view = ours.get("view") or {"channels": channels, "height": height, "width": width}
    steps = []
    if view.get("orientation") == "exif":
        steps.append("turned as the EXIF tag says")
    background = view.get("background", "none")
    behind = "alpha dropped" if background == "none" else f"{background} behind transparent pixels"
    steps.append(f"{'grey' if view['channels'] == 1 else 'RGB'}, {behind}")
    rounded = "down" if view.get("resize") == "floor" else "to the nearest pixel"
    steps.append(
        f"resized, bilinear and antialiased, until it covers {view['height']} × {view['width']} "
        f"(height × width), the longer side rounded {rounded}; its centre is cropped"
    )
    if [view["channels"], view["height"], view["width"]] != [channels, height, width]:
        steps.append(
            f"as a tensor in [0, 1], converted to {channels} × {height} × {width}, which the network "
            "takes: by antialiased bilinear interpolation, and grey repeated or colour weighed by "
            "ITU-R 601"
        )
    steps.append("in [0, 1], less `mean`, over `std` of config.json")
    return [f"{number}. {step}" for number, step in enumerate(steps, start=1)]


def says(config: Mapping[str, Any]) -> str:
    """What turns logits into probabilities."""
    ours = config["distill"]
    if ours.get("targets") == "sigmoid":
        return "Each label has a probability by itself, σ(z) of its logit z."
    if "temperature" not in ours:
        return "They are softmax(z) of the logits z: no temperature was fitted."
    return (
        f"They are softmax(z / T) of the logits z, with T = {ours['temperature']:.4g}: the temperature "
        "that was fitted on held-out images, `distill.temperature` of config.json."
    )


def _use(config: Mapping[str, Any], *, timms: bool) -> list[str]:
    if not timms:
        return [
            "The network is torchvision's, so timm cannot load it; `distill predict FOLDER image.png` "
            "does all of the above."
        ]
    ours = config["distill"]
    view = ours.get("view") or {}
    sides = [view.get(key) for key in ("channels", "height", "width")]
    same = sides == ours["input_size"] and view.get("resize") == "floor"
    own = str(config["architecture"]).startswith(OWN)
    sigmoid = ours.get("targets") == "sigmoid"
    divided, turned = "temperature" in ours, view.get("orientation") == "exif"
    mode = "L" if ours["input_size"][0] == 1 else "RGB"
    probabilities = "logits.sigmoid()" if sigmoid else "logits.softmax(-1)"
    if divided:
        probabilities = "(logits / temperature).softmax(-1)"
    return [
        "`distill predict FOLDER image.png` does all of the above, FOLDER being this one. With timm, "
        + ("whose transform makes the same pixels" if same else "whose transform comes close to it")
        + " of a picture without transparency:",
        "",
        "```python",
        *(("import distill_cli.models  # registers the architecture",) if own else ()),
        *(("import json", "") if divided else ()),
        "import timm",
        f"from PIL import Image{', ImageOps' if turned else ''}",
        "",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()',
        "options = timm.data.resolve_data_config(model=model)",
        "transform = timm.data.create_transform(**options)",
        *(
            ('temperature = json.load(open("FOLDER/config.json"))["distill"]["temperature"]',)
            if divided
            else ()
        ),
        'picture = Image.open("image.png")',
        *(("picture = ImageOps.exif_transpose(picture)",) if turned else ()),
        f'logits = model(transform(picture.convert("{mode}"))[None])',
        f"probabilities = {probabilities}",
        "```",
    ]
