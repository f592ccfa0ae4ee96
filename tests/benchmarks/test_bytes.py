"""What a codec saves is counted as it travels, and told in the words that were asked for."""

import itertools
import json
import sys
from dataclasses import replace

import bytes as measured
import numpy as np
import pytest
from bytes import QUICK, Case

from headwater.testbed.laboratory import Laboratory
from headwater.transport.objects import travelling_bytes
from support.learning import TREE, described, people

SMALL = Case("int8", downlink="int8", scale=replace(QUICK, rounds=2))


def test_the_task_has_as_many_parameters_as_it_says() -> None:
    scale = measured.Scale()
    widths = (measured.FEATURES, *scale.hidden, measured.CLASSES)
    assert sum(before * after + after for before, after in itertools.pairwise(widths)) == 99_690
    assert scale.clusters == {"gw0": ("d0", "d2", "d4", "d6", "d8"), "gw1": ("d1", "d3", "d5", "d7", "d9")}


def test_rotated_pixels_have_no_dead_input_and_the_same_distances() -> None:
    plain, dense = measured.people(SMALL, 0), measured.people(replace(SMALL, dense=True), 0)
    x, turned = plain["d0"].train_x, dense["d0"].train_x
    assert (x.std(axis=0) == 0).any()
    assert (turned.std(axis=0) > 0.01).all()
    apart = [np.linalg.norm(one[1:] - one[0], axis=1) for one in (x, turned)]
    np.testing.assert_allclose(apart[1] / apart[0], apart[1][0] / apart[0][0], rtol=1e-4)


def test_a_row_tells_the_five_figures_first_and_every_link() -> None:
    row = measured.measure(SMALL, [0])
    told = row.told()
    assert list(told)[:5] == ["codec", "bytes_per_update", "ratio", "accuracy", "accuracy_fp32"]
    (plain,), (coded,) = row.plain, row.outcomes
    assert told["bytes_per_update"] == round(coded.links.device_to_gateway, 1)
    assert told["ratio"] == pytest.approx(plain.links.device_to_gateway / coded.links.device_to_gateway, abs=0.01)
    # A model of 1,210 parameters, 4 bytes each, then a patch of one byte each; the first model goes down whole.
    assert plain.links.cloud_to_gateway > 4840
    assert plain.links.cloud_to_gateway / 2 < coded.links.cloud_to_gateway < plain.links.cloud_to_gateway * 0.7
    assert coded.links.gateway_to_device == coded.links.cloud_to_gateway
    assert 3 < told["ratios"]["gateway_to_cloud"] < told["ratio"] * 1.1


def test_what_is_counted_is_what_is_published() -> None:
    """A large object's chunks say each whose they are; a frame that fits into one is that chunk."""
    assert travelling_bytes(b"\x28\xb5\x2f\xfd" + b"x" * 100) == 104
    assert 300_000 + 2 * 90 < travelling_bytes(b"x" * 300_000) < 300_000 + 2 * 150


def test_a_laboratory_counts_each_link_of_each_round() -> None:
    with Laboratory(described(rounds=2, evaluate_every=1), people(), clusters=TREE) as lab:
        lab.run()
    top, site = lab.hosts["cloud"].traffic, lab.hosts["gw1"].traffic
    # Three messages of two children each; the cloud's children are a device and a gateway.
    assert top.received_bytes == pytest.approx(site.received_bytes, rel=0.05)
    assert sum(told.bytes_up for told in lab.told) == pytest.approx(1.5 * site.received_bytes, rel=0.05)
    assert top.sent_bytes == site.sent_bytes


def test_one_line_of_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bytes.py", "--quick", "--codec", "stc", "--json"])
    assert measured.main() == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert told["codec"] == "stc"
    assert told["ratio"] > 20
