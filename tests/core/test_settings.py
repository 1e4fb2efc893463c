"""Settings: the defaults, the presets, and valid and invalid values."""

import math
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from core.errors import InputError
from core.losses.style_losses import STYLE_LOSSES
from core.presets import DEFAULT_PRESET, PRESETS, choose
from core.settings import SETTINGS, TransferSettings
from core.vgg.layers import CONVOLUTIONS, Precision

NUMBERS = [setting for setting in SETTINGS.values() if setting.type in (int, float)]
LISTS = [setting for setting in SETTINGS.values() if setting.type is tuple and not setting.each_of]
WORDS = [setting for setting in SETTINGS.values() if setting.type is str]


def refusal(preset="reference", **choices):
    """Return the error message for invalid values."""
    with pytest.raises(InputError) as caught:
        choose(preset, **choices)
    sentence = str(caught.value)
    assert sentence.endswith(".") and not sentence.endswith("..") and "\n" not in sentence
    return sentence


def beyond(setting, side):
    """Return the nearest value outside a setting's limit."""
    limit, sign = getattr(setting, side), -1 if side == "minimum" else 1
    return limit + sign if setting.type is int else math.nextafter(limit, sign * math.inf)


def inside(setting, side):
    """Return a setting's smallest or largest allowed value."""
    return getattr(setting, side)


# Defaults and presets


def test_defaults_are_the_published_reference_run():
    published = {
        "size": 512,
        "iterations": 1000,
        "frame_every": 100,
        "init": "content",
        "style_weight": 1e-2,
        "content_weight": 1e3,
        "total_variation_weight": 0.0,
        "style_layers": tuple(f"block{block}_conv1" for block in range(1, 6)),
        "style_layer_weights": (),
        "content_layers": ("block5_conv2",),
        "precision": "float32",
        "optimizer": "adam",
        "learning_rate": 5.0,
        "beta_1": 0.99,
        "beta_2": 0.999,
        "epsilon": 0.1,
    }
    not_published = {
        "history",
        "preconditioning",
        "seed",
        "memory",
    }  # settings of other optimizers and initial images, and of the machine
    as_published = {
        "stages": 1,
        "style_scale": 1.0,
        "style_blend": (),
        "colours": "style",
        "content_layer_weights": (),
        "style_loss": "gram",
        "pooling": "max",
        "padding": "zero",
        "averaging": 0.0,
    }
    assert TransferSettings().model_dump(exclude=not_published) == published | as_published
    assert choose("reference") == TransferSettings()


@pytest.mark.parametrize("name", PRESETS)
def test_preset(name):
    preset = PRESETS[name]
    settings = preset.settings()
    assert choose(name) == settings
    assert preset.title and preset.purpose.endswith(".")
    defaults = TransferSettings().model_dump()
    changed = {key for key, value in settings.model_dump().items() if value != defaults[key]}
    assert changed == set(preset.changes)
    assert settings.frame_every <= settings.iterations


def test_fast_is_the_default_between_the_other_presets():
    assert list(PRESETS) == ["draft", "fast", "fine", "reference"]
    assert DEFAULT_PRESET == "fast"
    assert choose() == PRESETS["fast"].settings()
    draft, fast, fine, reference = (preset.settings() for preset in PRESETS.values())
    assert draft.size < fast.size == fine.size == reference.size == 512
    assert draft.iterations < fast.iterations < fine.iterations < reference.iterations
    assert draft.frame_every < fast.frame_every < fine.frame_every < reference.frame_every


@pytest.mark.parametrize("name", ["draft", "fast"])
def test_quick_presets_have_the_losses_of_the_reference(name):
    quick, reference = PRESETS[name].settings(), TransferSettings()
    assert (quick.init, quick.optimizer, quick.precision) == ("preview", "l-bfgs", "auto")
    for setting in SETTINGS.values():
        if setting.group in ("losses", "layers"):
            assert getattr(quick, setting.name) == getattr(reference, setting.name)


def test_old_records_without_newer_settings_keep_their_meaning():
    words = TransferSettings.model_validate({"size": 256, "iterations": 100, "frame_every": 10, "beta_1": 0.9})
    assert (words.init, words.optimizer, words.precision) == ("content", "adam", "float32")


# Valid values


def test_choices_override_only_their_settings():
    settings = choose("draft", size=300, beta_1=0.5)
    assert settings.model_dump() == {**choose("draft").model_dump(), "size": 300, "beta_1": 0.5}


def test_none_changes_nothing():
    assert choose("draft", **dict.fromkeys(SETTINGS)) == choose("draft")
    assert choose("draft", size=None, iterations=7).iterations == 7
    assert choose("reference", total_variation_weight=0).total_variation_weight == 0  # 0 is a value


def test_numbers_given_as_text():
    settings = choose(size="640", style_weight="2.5e-2", iterations=20.0)
    assert (settings.size, settings.style_weight, settings.iterations) == (640, 0.025, 20)
    assert type(settings.iterations) is int


@pytest.mark.parametrize("setting", LISTS, ids=lambda setting: setting.name)
def test_layers_from_a_string(setting):
    expected = ("block3_conv4", "block1_conv1")
    for given in ("block3_conv4,block1_conv1", " block3_conv4 ,\tblock1_conv1 ", list(expected), expected):
        assert getattr(choose(**{setting.name: given}), setting.name) == expected
    assert getattr(choose(**{setting.name: "block5_conv4"}), setting.name) == ("block5_conv4",)
    assert getattr(choose(**{setting.name: ",".join(CONVOLUTIONS)}), setting.name) == tuple(CONVOLUTIONS)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("setting", WORDS, ids=lambda setting: setting.name)
def test_every_choice_is_allowed(setting, preset):
    for word in setting.choices:
        settings = choose(preset, **{setting.name: word})
        assert settings.model_dump() == {**choose(preset).model_dump(), setting.name: word}
        assert TransferSettings.model_validate_json(settings.model_dump_json()) == settings


def test_style_or_content_weight_may_be_zero():
    assert choose(style_weight=0).style_weight == 0
    assert choose(content_weight=0).content_weight == 0


def test_settings_are_immutable_and_survive_json():
    settings = choose("draft", style_layers="block2_conv2", epsilon=1e-7)
    assert TransferSettings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValidationError, match="frozen"):
        settings.size = 64
    assert settings.size == 256


# Invalid values


@pytest.mark.parametrize("setting", LISTS, ids=lambda setting: setting.name)
@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ("block1_conv3", "block1_conv3"),
        ("block1_conv1,block9_conv1", "block9_conv1"),
        (["block1_conv1", "block1_pool"], "block1_pool"),
        ("Block1_conv1", "Block1_conv1"),
        ("block1_conv1 block2_conv1", "block1_conv1 block2_conv1"),
    ],
)
def test_unknown_layer(setting, layers, named):
    sentence = refusal(**{setting.name: layers})
    assert sentence.startswith(f"{setting.name} = {layers!r}: ")
    assert f"VGG19 has no layer {named!r}; its layers are relu1_1 (also called block1_conv1; " in sentence


def test_names_keep_their_capitals():
    assert "VGG19" in refusal(style_layers="block9_conv1")


@pytest.mark.parametrize("setting", LISTS, ids=lambda setting: setting.name)
def test_empty_entry_among_the_layers(setting):
    for layers in ("", "block1_conv1,", ",block1_conv1", "block1_conv1,,block2_conv1"):
        sentence = refusal(**{setting.name: layers})
        assert sentence.startswith(f"{setting.name} = {layers!r}: ") and "VGG19 has no layer ''" in sentence


@pytest.mark.parametrize("setting", LISTS, ids=lambda setting: setting.name)
def test_layer_named_twice(setting):
    layers = "block1_conv1,block2_conv1,block1_conv1"
    assert refusal(**{setting.name: layers}) == f"{setting.name} = {layers!r}: a layer is listed twice."


@pytest.mark.parametrize("setting", LISTS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("layers", [(), []])
def test_no_layer_at_all(setting, layers):
    sentence = refusal(**{setting.name: layers})
    assert sentence.startswith(f"{setting.name} = {layers!r}: ") and sentence.endswith("name at least one layer.")


@pytest.mark.parametrize("setting", LISTS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("layers", [5, 1.5, True, b"block1_conv1", {"block1_conv1": 1}, [1], [None]])
def test_layers_of_a_wrong_type(setting, layers):
    assert refusal(**{setting.name: layers}).startswith(f"{setting.name} = ")


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("side", ["minimum", "maximum"])
def test_outside_of_a_limit(setting, side):
    value = beyond(setting, side)
    sentence = refusal(**{setting.name: value})
    assert sentence.startswith(f"{setting.name} = {value!r}: should be ")
    words = {"minimum": "greater than or equal to ", "maximum": "less than or equal to "}[side]
    assert float(sentence.rpartition(words)[2].removesuffix(".")) == getattr(setting, side)


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "nan", "inf"])
def test_not_a_finite_number(setting, value):
    assert refusal(**{setting.name: value}).startswith(f"{setting.name} = {value!r}: should be a ")


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("value", ["many", "", "1,5", [], {}, (1,), object, 1j])
def test_number_of_a_wrong_type(setting, value):
    sentence = refusal(**{setting.name: value})
    kind = "integer" if setting.type is int else "number"
    assert sentence.startswith(f"{setting.name} = {value!r}: should be a valid {kind}")


@pytest.mark.parametrize(
    "setting", [setting for setting in NUMBERS if setting.type is int], ids=lambda setting: setting.name
)
def test_part_of_a_whole_number(setting):
    assert refusal(**{setting.name: 100.5}).startswith(f"{setting.name} = 100.5: should be a valid integer")
    assert refusal(**{setting.name: "100.5"}).startswith(f"{setting.name} = '100.5': should be a valid integer")


@pytest.mark.parametrize("setting", WORDS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("value", ["", "oil", "Adam", " adam", "FLOAT32", "adam,l-bfgs", 0, True, b"adam", []])
def test_word_outside_of_the_choices(setting, value):
    sentence = refusal(**{setting.name: value})
    assert sentence.startswith(f"{setting.name} = {value!r}: should be ")
    assert [word for word in setting.choices if f"'{word}'" not in sentence.partition(": should be ")[2]] == []


@pytest.mark.parametrize("zero", [0, -0.0, "0"])
def test_both_weights_zero(zero):
    sentence = refusal(style_weight=zero, content_weight=0, total_variation_weight=1)
    assert "style_weight and content_weight cannot both be 0" in sentence


@pytest.mark.parametrize("name", ["oil", "Fast", "Draft", "", " draft"])
def test_unknown_preset(name):
    assert refusal(name) == f"There is no preset {name!r}; there are {', '.join(PRESETS)}."


@pytest.mark.parametrize("name", ["colour", "Size", "preset_", "model_config"])
def test_unknown_setting(name):
    assert refusal(**{name: 3}).startswith(f"{name} = 3: ")


def test_bad_choice_is_refused_in_every_preset():
    for preset in PRESETS:
        assert refusal(preset, size=1).startswith("size = 1: ")
        assert refusal(preset, optimizer="sgd") == "optimizer = 'sgd': should be 'adam' or 'l-bfgs'."


# Layers, weights, stages and changes


@pytest.mark.parametrize("setting", LISTS, ids=lambda setting: setting.name)
def test_layers_by_their_usual_names(setting):
    """`relu4_2` becomes Keras's name block4_conv2; `conv4_2` is before the ReLU and keeps its name."""
    for given in ("relu4_2,conv4_2,relu1_1", "block4_conv2,conv4_2,block1_conv1"):
        assert getattr(choose(**{setting.name: given}), setting.name) == ("block4_conv2", "conv4_2", "block1_conv1")
    assert "a layer is listed twice" in refusal(**{setting.name: "relu4_2,block4_conv2"})
    for wrong in ("relu1_3", "conv3_5", "relu6_1", "relu0_1", "conv4-2", "Conv4_2"):
        assert f"VGG19 has no layer {wrong!r}" in refusal(**{setting.name: wrong})


def test_a_blend_is_a_number_for_each_painting_and_not_all_zero():
    assert choose(style_blend="1, 0,2.5").style_blend == (1.0, 0.0, 2.5)
    assert refusal(style_blend="0,0") == "style_blend cannot be all 0: there would be no style."
    assert refusal(style_blend=[1.0] * 7).startswith("style_blend = ")
    assert choose(style_blend="") == choose()


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"size": 512, "iterations": 1000}, [(512, 1000)]),
        ({"size": 512, "iterations": 700, "stages": 3}, [(128, 400), (256, 600), (512, 700)]),
        ({"size": 500, "iterations": 10, "stages": 2}, [(250, 7), (500, 10)]),
        (
            {"size": 2048, "iterations": 63, "stages": 6},
            [(64, 32), (128, 48), (256, 56), (512, 60), (1024, 62), (2048, 63)],
        ),
    ],
)
def test_stages_double_the_size_and_halve_the_iterations(choices, expected):
    assert choose("reference", **choices).schedule() == expected


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [
        (1, [(256, 1)]),
        (2, [(128, 1), (256, 2)]),
        (3, [(64, 1), (128, 2), (256, 3)]),
        (4, [(64, 2), (128, 3), (256, 4)]),
    ],
)
def test_each_stage_has_an_iteration(iterations, expected):
    assert choose("reference", size=256, iterations=iterations, stages=3).schedule() == expected


@pytest.mark.parametrize("stages", range(1, 7))
def test_the_last_stage_ends_with_the_last_iteration(stages):
    for iterations in range(1, 100):
        schedule = choose("reference", size=2048, iterations=iterations, stages=stages).schedule()
        ends = [end for _, end in schedule]
        assert ends == sorted(set(ends)) and ends[0] >= 1
        assert schedule[-1] == (2048, iterations)


def test_stages_that_would_start_too_small_are_refused():
    assert refusal(stages=6) == "6 stages to 512 px would start at 16 px; the minimum is 64 px."
    assert choose(stages=4).schedule()[0][0] == 64


@pytest.mark.parametrize("weights", ["1,1", (1.0,) * 3])
def test_content_layer_weights_for_other_layers(weights):
    count = len(weights.split(",")) if isinstance(weights, str) else len(weights)
    assert refusal(content_layer_weights=weights) == (
        f"content_layer_weights has {count} numbers for 1 content layers: give a number for each layer, or no numbers."
    )


def test_style_layer_weights_are_a_number_for_each_layer():
    assert choose("reference", style_layer_weights="1, 0.5,0, 2e3 ,1").style_layer_weights == (1.0, 0.5, 0.0, 2e3, 1.0)
    two = choose("reference", style_layers="block1_conv1,block2_conv2", style_layer_weights=[3, 0])
    assert two.style_layer_weights == (3.0, 0.0)
    assert all(type(weight) is float for weight in two.style_layer_weights)


def test_no_style_layer_weights_are_none():
    for nothing in ("", "  ", (), []):
        assert choose("reference", style_layer_weights=nothing) == choose("reference")


@pytest.mark.parametrize("weights", ["1", "1,1,1,1", (1.0,) * 6])
def test_style_layer_weights_for_other_layers(weights):
    count = len(weights.split(",")) if isinstance(weights, str) else len(weights)
    assert refusal(style_layer_weights=weights) == (
        f"style_layer_weights has {count} numbers for 5 style layers: give a number for each layer, or no numbers."
    )


def test_style_layer_weights_must_fit_new_layers():
    five = choose("reference", style_layer_weights=(1, 2, 3, 4, 5))
    with pytest.raises(InputError, match=r"^style_layer_weights has 5 numbers for 1 style layers: "):
        five.changed(style_layers="block1_conv1")
    assert five.changed(style_layers="block1_conv1", style_layer_weights=()).loss_weights().style_layers == (1.0,)


@pytest.mark.parametrize("weight", [-1e-9, 1.1e6, math.nan, math.inf, "much", "", None])
def test_a_style_layer_weight_out_of_range(weight):
    assert refusal(style_layer_weights=[1, 1, weight, 1, 1]).startswith("style_layer_weights = ")
    assert choose("reference", style_layer_weights=[0, 1e6, 1, 1, 1]).style_layer_weights[1] == 1e6


def test_loss_weights_contain_all_weights():
    settings = choose("reference", style_weight=3, content_weight=0, total_variation_weight=0.5)
    assert settings.loss_weights() == (3.0, 0.0, 0.5, (1.0,) * 5, (1.0,))
    weighted = settings.changed(style_layer_weights="2,1,0,1,1")
    assert weighted.loss_weights() == (3.0, 0.0, 0.5, (2.0, 1.0, 0.0, 1.0, 1.0), (1.0,))
    two = settings.changed(content_layers="relu4_2,conv5_1", content_layer_weights="0.5,2")
    assert two.loss_weights().content_layers == (0.5, 2.0)
    assert settings.changed(style_layer_weights=(1,) * 5).loss_weights() == settings.loss_weights()
    assert choose("reference", style_layers="block3_conv1").loss_weights().style_layers == (1.0,)


def test_changed_settings_keep_the_others():
    settings = choose("draft", style_weight=0.5)
    changed = settings.changed(iterations=7, content_weight="3")
    assert changed.model_dump() == {**settings.model_dump(), "iterations": 7, "content_weight": 3.0}
    assert settings.iterations == 20
    assert settings.changed() == settings
    assert changed.changed(iterations=20, content_weight=1e3) == settings


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"iterations": 0}, "iterations = 0: should be greater than or equal to 1."),
        ({"iterations": 20_001}, "iterations = 20001: should be less than or equal to 20000."),
        ({"colour": 1}, "colour = 1: Extra inputs are not permitted."),
        (
            {"content_weight": 0},
            "style_weight and content_weight cannot both be 0: there would be nothing to paint.",
        ),
    ],
)
def test_changes_that_are_not_allowed_are_refused(changes, sentence):
    settings = choose("reference", style_weight=0)
    with pytest.raises(InputError) as caught:
        settings.changed(**changes)
    assert str(caught.value) == sentence


def test_what_can_be_steered():
    assert [setting.name for setting in SETTINGS.values() if setting.steered] == [
        "style_weight",
        "content_weight",
        "total_variation_weight",
        "style_layer_weights",
        "content_layer_weights",
    ]


# Settings


def test_every_setting_has_a_description():
    assert list(SETTINGS) == list(TransferSettings.model_fields)
    for name, setting in SETTINGS.items():
        assert setting.name == name and setting.label.strip() and setting.meaning.endswith(".")
        assert setting.group in ("picture", "losses", "layers", "optimizer")
        assert isinstance(getattr(TransferSettings(), name), setting.type)
    assert len({setting.label for setting in SETTINGS.values()}) == len(SETTINGS)
    assert {setting.name for setting in LISTS} == {"style_layers", "content_layers"}
    assert {setting.name: setting.choices for setting in SETTINGS.values() if setting.choices} == {
        "init": ("content", "preview", "style", "noise"),
        "colours": ("style", "luminance", "matched"),
        "style_loss": tuple(STYLE_LOSSES),
        "pooling": ("max", "average"),
        "padding": ("zero", "replicate"),
        "precision": ("auto", "float32", "bfloat16"),
        "optimizer": ("adam", "l-bfgs"),
    }
    assert SETTINGS["size"].unit == "px" and SETTINGS["frame_every"].unit == "iterations"


def test_numbers_have_limits_and_other_settings_have_none():
    for setting in NUMBERS:
        assert setting.minimum is not None and setting.maximum is not None
        default = getattr(TransferSettings(), setting.name)
        assert setting.minimum <= default < setting.maximum
    for setting in LISTS + WORDS:
        assert (setting.minimum, setting.maximum) == (None, None)
    each = {setting.name: setting.each_of for setting in SETTINGS.values() if setting.each_of}
    assert each == {
        "style_blend": "styles",
        "style_layer_weights": "style_layers",
        "content_layer_weights": "content_layers",
    }
    assert len(NUMBERS + LISTS + WORDS) + len(each) == len(SETTINGS)


def test_precision_is_a_network_precision_or_auto():
    assert set(SETTINGS["precision"].choices) == {"auto", *get_args(Precision)}


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("side", ["minimum", "maximum"])
def test_the_described_limits_are_validated(setting, side):
    value = inside(setting, side)
    large = {"size": SETTINGS["size"].maximum} if setting.name == "stages" else {}  # six stages need a large image
    assert getattr(choose("reference", **{**large, setting.name: value}), setting.name) == value


def test_settings_import_without_tensorflow():
    code = "import sys, core.settings; print(sorted({'tensorflow', 'keras', 'onnxruntime'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
