import pytest
import torch

from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder
from upstream.model.family import FAMILY, Geometry, chunk_frames, delta_s, geometry, macs_per_second, parameters


@pytest.mark.parametrize("g", FAMILY.values(), ids=lambda g: g.name)
def test_parameters_equal_those_of_the_built_module(g):
    with torch.device("meta"):  # shapes without memory: HL alone takes 1.3 GB
        model = build_encoder(g)
    assert parameters(g) == sum(p.numel() for p in model.parameters())


def test_published_sizes_and_compression():
    hl, hs, hst = (FAMILY[name] for name in ("hl", "hs", "hst"))
    assert [round(parameters(g) / 1e6, 1) for g in (hl, hs, hst)] == [315.4, 63.5, 19.2]
    assert round(delta_s(hs, hl), 1) == 79.9
    assert round(delta_s(hst, hl), 1) == 93.9
    assert round(delta_s(geometry("hst", layers=3, width=384, heads=6, ffn=1536), hl), 1) == 96.5


@pytest.mark.slow
def test_macs_equal_those_counted_on_the_built_module():
    """torch's own counter counts every matrix product and convolution of a forward pass."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from upstream.model.encoder import run_layers

    for name in ("hst", "hst_narrow", "hst_fast", "hst_tiny", "open_hst", "open_hst_narrow"):
        g = FAMILY[name]
        model = build_encoder(g).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            run_layers(model, torch.zeros(1, 5 * 16000))
        counted = counter.get_total_flops() / 2 / 5
        # weight norm and the norms are not counted on either side
        assert macs_per_second(g, 5.0) == pytest.approx(counted, rel=0.01)


def test_waveform_encoder_has_the_cost_of_the_design():
    with_conv = macs_per_second(FAMILY["hst"])
    without = macs_per_second(geometry("hst", front_end="logmel"))
    assert (with_conv - without) / 1e9 == pytest.approx(2.45, abs=0.05)


def test_squeezed_members_are_smaller_and_faster():
    fast, tiny, plain = (geometry(name) for name in ("hst_fast", "hst_tiny", "hst_logmel"))
    assert (fast.layers, fast.width, fast.squeeze) == (4, 512, 2)
    assert macs_per_second(fast) < 0.5 * macs_per_second(plain)
    assert 1.9e6 < parameters(tiny) < 2.2e6
    assert "squeeze" not in plain.facts() and fast.facts()["squeeze"] == 2
    assert macs_per_second(geometry("hst_whisper6_fast")) < 0.6 * macs_per_second(geometry("hst_whisper6"))


def test_the_copied_geometry_counts_its_stem_and_has_no_positional_convolution():
    for name in ("hst_whisper", "hst_whisper6", "hst_whisper6_fast", "hst_logmel"):
        g = geometry(name)
        assert parameters(g) == sum(p.numel() for p in build_encoder(g).parameters())
    assert "stem" not in geometry("hst_logmel").facts() and geometry("hst_whisper").facts()["stem"] == "convolution"


def test_every_log_mel_member_streams_with_the_same_weights():
    for name, g in FAMILY.items():
        if g.left_context or g.cmvn:
            continue
        assert ("left_context" in g.facts()) is False
        if g.front_end == "waveform":
            assert f"{name}_stream" not in FAMILY and f"{name}_cmvn" not in FAMILY
            continue
        assert "cmvn" not in g.facts() and (f"{name}_cmvn" in FAMILY) == (g.stem == "linear")
        if g.stem == "linear":
            normalised = geometry(f"{name}_cmvn")
            assert normalised.facts() == g.facts() | {"name": normalised.name, "cmvn": True}
        own = geometry(f"{name}_stream")
        assert own.facts() == g.facts() | {"name": own.name, "left_context": 128}
        assert parameters(own) == parameters(g) and macs_per_second(own, 60.0) < macs_per_second(g, 60.0)


@pytest.mark.parametrize("milliseconds, squeeze, frames", [(160, 1, 8), (180.0, 1, 9), (320, 2, 16), (1280, 2, 64)])
def test_chunks_are_counted_in_frames(milliseconds, squeeze, frames):
    assert chunk_frames(milliseconds, squeeze) == frames


def test_front_ends_differ_in_nothing_else():
    """The cost of front ends is comparable only behind the same Transformer."""
    for names in (("hs", "hs_narrow", "hs_logmel"), ("open_hst", "open_hst_waveform", "open_hst_narrow")):
        bodies = {(g.layers, g.width, g.heads, g.ffn, g.pos_conv_kernel) for g in map(geometry, names)}
        assert len(bodies) == 1
    assert [geometry(f"open_hst_{kind}").conv_channels for kind in ("waveform", "narrow")] == [512, 256]
    assert macs_per_second(geometry("hst_narrow")) < 0.5 * macs_per_second(geometry("hst"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"front_end": "mel"}, "`mel`"),
        ({"heads": 5}, "5 heads"),
        ({"pos_conv_groups": 7}, "7 groups"),
        ({"layers": 0}, "layers"),
        ({"squeeze": 3}, "squeeze 3"),
        ({"front_end": "waveform", "squeeze": 2}, "squeeze 2"),
        ({"stem": "mlp"}, "`mlp`"),
        ({"positions": "rotary"}, "`rotary`"),
        ({"front_end": "waveform", "stem": "convolution"}, "log-mel"),
        ({"front_end": "waveform", "positions": "sinusoid"}, "log-mel"),
        ({"left_context": -1}, "left_context is -1"),
        ({"left_context": 7, "squeeze": 2}, "left_context is 7.*squeeze 2"),
        ({"front_end": "waveform", "left_context": 64}, "streaming needs the log-mel front end"),
        ({"front_end": "waveform", "cmvn": True}, "cmvn.*log-mel front end"),
        ({"left_context": 64, "cmvn": True}, "cmvn.*cannot stream"),
        ({"cmvn": "no"}, "cmvn is 'no'"),
    ],
)
def test_impossible_geometries_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        geometry("mini_hl", **changes)


def test_unknown_geometry_names_the_known_ones():
    with pytest.raises(UpstreamError, match="mini_hl"):
        geometry("harness-large")


def test_geometry_is_plain_data():
    assert Geometry(**{f: getattr(FAMILY["hst"], f) for f in FAMILY["hst"].__dataclass_fields__}) == FAMILY["hst"]
