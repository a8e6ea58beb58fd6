"""Flags of `manyview synth --method tunet` and what can be said about them before anything loads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manyview.cli.flags import check_range, check_readable
from manyview.cli.orbit_flags import parse_elevation
from manyview.errors import InputError
from manyview.weights import Bundle

if TYPE_CHECKING:
    from manyview.cli.synth import Options

ORBIT_FLAGS_SHARED = {"--elevation", "--mask", "--fill", "--prompt"}
"""Of `OrbitFlags`, those that tunet reads too."""
PRODUCT_FLAGS_SHARED = {"--masks"}


@dataclass(frozen=True, kw_only=True)
class PairFlags:
    """Flags of `manyview synth` for tunet alone."""

    fusion: Literal["A", "B", "mean"] | None = None
    """tunet: how noise comes back to the predicted mean: the base's own (A), the source's (B), or none (mean,
    blurred). As the weights record when not given."""
    noise_source: Literal["latent_t", "latent_T", "eps_t", "gaussian"] | None = None
    """tunet: the noise that fusion starts from, of the input's inversion or fresh; A usually takes eps_t, B
    latent_T."""
    candidates: tuple[str, ...] = ()
    """tunet: several fusions, such as A B B:gaussian, of which --selection takes one for each view; all are
    written."""
    selection: Literal["agreement", "encoder"] | None = None
    """tunet: by which rule: how well the predicted view is kept, or likeness to the input as an image encoder
    sees it. As the weights record when not given."""
    t_star: int | None = None
    """tunet: how far the input is inverted; the weights' when not given, usually 600 of 1000."""
    mean_steps: int | None = None
    """tunet: levels of the inversion up to there, and of the way back; as the weights record when not
    given."""
    refinements: int | None = None
    """tunet: further calls at each level of the inversion, for a closer round trip."""
    class_id: int | None = None
    """tunet: the object's class as the weights number them; unknown when not given."""
    framing: Literal["object", "crop"] = "object"
    """tunet, a photo: cut the object out and frame it as in training, or take the middle square as it is."""


def check_pair_flags(options: Options) -> None:
    """Raise `InputError` for flags that do not go together."""
    flags = options.pair
    check_range("--t-star", flags.t_star, 1, 999)
    check_range("--mean-steps", flags.mean_steps, 1, 1000)
    check_range("--refinements", flags.refinements, 0, 100)
    check_range("--class-id", flags.class_id, 0, 1_000_000)
    check_range("--fill", options.orbit.fill, 0.01, 1)
    if options.input is None:
        raise InputError(
            "INPUT", "not given", "expected an image, a folder or a scene; --prompt edits its views"
        )
    if parse_elevation(options.orbit.elevation) == "sweep":
        raise InputError("--elevation", "sweep", "tunet does not look for it; expected degrees or auto")
    for name, value, why in (
        ("--steps", options.steps, "tunet's are --mean-steps"),
        ("--solver", options.solver, "tunet goes back by DDIM, as it came"),
        ("--samples", options.samples if options.samples != 1 else None, "tunet has --candidates"),
    ):
        if value is not None:
            raise InputError(name, value, why)
    if options.guidance is not None and options.orbit.prompt is None:
        raise InputError("--guidance", options.guidance, "is the strength of --prompt")
    if flags.candidates and (flags.fusion or flags.noise_source):
        given = "--fusion" if flags.fusion else "--noise-source"
        raise InputError(given, "given together with --candidates", "expected one of them")
    if flags.fusion == "mean" and flags.noise_source:
        raise InputError("--noise-source", flags.noise_source, "--fusion mean adds no noise")
    if options.orbit.mask is not None:
        check_readable("--mask", options.orbit.mask)
        if flags.framing == "crop":
            raise InputError("--mask", str(options.orbit.mask), "is for --framing object")
    if flags.framing == "crop" and options.orbit.fill is not None:
        raise InputError("--fill", options.orbit.fill, "is for --framing object")


def check_bundle(options: Options, bundle: Bundle) -> None:
    """Raise `InputError` for what these weights cannot do, before any loads."""
    bundle.folders("vae", "base", "tunet", "scheduler")
    flags, base, tunet = options.pair, _config(bundle, "base"), _config(bundle, "tunet")
    if options.orbit.prompt is not None and base.get("_class_name") != "UNet2DConditionModel":
        raise InputError("--prompt", options.orbit.prompt, "these weights' base takes no text")
    known = max(int(tunet.get("num_classes", 0)), int(base.get("num_class_embeds") or 1) - 1)
    if flags.class_id is not None and flags.class_id >= known:
        accepted = f"expected 0 to {known - 1}" if known else "these weights know no classes; leave it out"
        raise InputError("--class-id", flags.class_id, accepted)
    if flags.selection == "encoder" and "image_encoder" not in bundle.components:
        raise InputError("--selection", "encoder", "these weights have no image encoder; expected agreement")
    level = flags.t_star or bundle.settings.get("t_star") or int(tunet.get("t_star", 600))
    steps = flags.mean_steps or int(bundle.settings.get("mean_steps", 10))
    if steps > level:
        raise InputError("--mean-steps", steps, f"expected 1 to {level}, one timestep each")


def chosen_candidates(flags: PairFlags, bundle: Bundle) -> tuple[str, ...] | None:
    """The candidates that the flags name, or None for those recorded with the weights.

    Raises `InputError` for names that are not known, and for sources of noise that no fusion takes.
    """
    from manyview.methods.tunet.fusion import make_candidate, parse_candidate

    if flags.candidates:
        found = tuple(parse_candidate(text).name for text in flags.candidates)
        if len(set(found)) != len(found):
            raise InputError("--candidates", " ".join(flags.candidates), "expected different ones")
        rule = flags.selection or bundle.settings.get("selection", "agreement")
        if len(found) > 1 and "mean" in found and rule == "agreement":
            line = "always agrees with itself; leave it out, or give --selection encoder"
            raise InputError("--candidates", "mean", line)
        return found
    if flags.fusion == "mean":
        return ("mean",)
    if flags.fusion is None and flags.noise_source is None:
        return None
    fusion = flags.fusion
    if fusion is None:
        recorded = bundle.settings.get("candidates") or "A"
        first = recorded.split(",")[0] if isinstance(recorded, str) else recorded[0]
        fusion = parse_candidate(first, "--weights").fusion
    if fusion == "mean":
        raise InputError("--noise-source", flags.noise_source, "--fusion mean adds no noise")
    return (make_candidate(fusion, flags.noise_source).name,)


def _config(bundle: Bundle, name: str) -> dict[str, Any]:
    place = Path(bundle.components[name]) / "config.json"
    return json.loads(place.read_text(encoding="utf-8"))
