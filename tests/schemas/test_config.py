"""Configuration: rising layers, problems by line, and secrets nowhere."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from headwater.schemas.config import MASK, Invalid, explain, load, locate, resolve
from headwater.schemas.errors import ConfigError
from headwater.schemas.patterns import IN_WORDS
from headwater.schemas.run import RunDescription
from headwater.schemas.settings import (
    BridgeSettings,
    BrokerSettings,
    CloudSettings,
    DashboardSettings,
    DeviceSettings,
    GatewaySettings,
)
from headwater.testbed.toml import to_toml

DEVICE = """# a comment
node = "d1"
[broker]
host = "a"
port = 1
[data.d]
kind = "watch"
persons = [
  1,
  2,
]
"""


@pytest.mark.parametrize(
    ("environment", "flags", "host", "place"),
    [
        pytest.param({}, {}, "a", "d.toml:4", id="file"),
        pytest.param({"HEADWATER_BROKER__HOST": "b"}, {}, "b", "HEADWATER_BROKER__HOST", id="environment over file"),
        pytest.param({}, {("broker", "host"): "c"}, "c", "--broker-host", id="flag over file"),
        pytest.param(
            {"HEADWATER_BROKER__HOST": "b"}, {("broker", "host"): "c"}, "c", "--broker-host", id="flag over all"
        ),
        pytest.param(
            {"HEADWATER_BROKER__HOST": "b"}, {("broker", "host"): None}, "b", "HEADWATER_BROKER__HOST", id="no flag"
        ),
    ],
)
def test_the_later_layer_wins_and_is_named(
    environment: dict[str, str], flags: dict[tuple[str, ...], object], host: str, place: str
) -> None:
    resolved = resolve(DeviceSettings, text=DEVICE, name="d.toml", environment=environment, flags=flags)
    assert resolved.value.broker.host == host
    rows = {key: (value, origin) for key, value, origin in explain(resolved)}
    assert rows["broker.host"] == (host, place)
    assert rows["broker.user"] == ("-", "default")


def test_variables_are_read_as_toml_or_as_they_stand() -> None:
    environment = {
        "HEADWATER_BROKER__PORT": "1884",
        "HEADWATER_BROKER__TLS__INSECURE": "true",
        "HEADWATER_NODE": "plain-text",
        "HEADWATER_DATA": '{d = {kind = "watch", persons = [3]}}',
    }
    value = resolve(DeviceSettings, environment=environment).value
    assert (value.broker.port, value.node) == (1884, "plain-text")
    assert value.broker.tls is not None
    assert value.broker.tls.insecure


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("port = 1", "port = 99999", "d.toml:5: broker.port: input should be less than or equal to 65535 (it is 99999)"),
        ("port = 1", 'port = "x"', 'd.toml:5: broker.port: input should be a valid integer (it is x)'),
        ("port = 1", "prot = 1", "d.toml:5: broker.prot: unknown key; did you mean port?"),
        ("[broker]", "[brokre]", "d.toml:4: brokre: unknown key; did you mean broker?"),
        ('kind = "watch"', 'kind = "wacht"', "d.toml:7: data.d: 'wacht' is none of 'watch', 'digits', 'file', 'python'"),
        ("  2,", "  12,", "d.toml:8: data.d.persons.1: input should be less than or equal to 10 (it is 12)"),
        ('node = "d1"', 'node = "a/b"', "d.toml:2: node: use 1 to 64 letters, digits, '_', '.' or '-', the first of them"),
        ('node = "d1"\n', "", "d.toml: node: missing; give it a value"),
    ],
)  # fmt: skip
def test_a_problem_is_told_with_its_line_and_its_mend(old: str, new: str, problem: str) -> None:
    with pytest.raises(Invalid) as caught:
        resolve(DeviceSettings, text=DEVICE.replace(old, new), name="d.toml")
    (told, *more) = caught.value.problems
    assert told.startswith(problem)
    assert more == []


def test_what_is_no_host_is_told_in_words() -> None:
    with pytest.raises(
        Invalid, match=r"d\.toml:3: access\.hosts\.0: give a host's name alone, .*\(it is http://hill\)"
    ):
        resolve(DashboardSettings, text='fleet = "p"\n[access]\nhosts = ["http://hill"]\n', name="d.toml")


@pytest.mark.parametrize(
    ("text", "place"),
    [("a = [", "d.toml:1"), ("a = 1\nb = = 2\n", "d.toml:2:5"), ("a = 1\na = 2\n", "d.toml:2")],
)
def test_what_is_no_toml_is_told_with_its_place(text: str, place: str) -> None:
    with pytest.raises(Invalid, match="this is no TOML") as caught:
        resolve(DeviceSettings, text=text, name="d.toml")
    assert str(caught.value).startswith(place)


def test_all_problems_come_at_once() -> None:
    text = DEVICE.replace("port = 1", "port = 0").replace("  2,", "  12,")
    with pytest.raises(Invalid) as caught:
        resolve(DeviceSettings, text=text, environment={"HEADWATER_NOED": "x"})
    assert len(caught.value.problems) == 3


def test_other_services_variables_are_passed_over() -> None:
    environment = {"HEADWATER_DATABASE": "sqlite://", "HEADWATER_SITE__PORT": "1", "PATH": "/bin"}
    resolve(DeviceSettings, text=DEVICE, environment=environment, others=(CloudSettings, GatewaySettings))
    with pytest.raises(Invalid, match="HEADWATER_DATABASE: no such setting"):
        resolve(DeviceSettings, text=DEVICE, environment=environment)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="give a readable TOML file"):
        load(DeviceSettings, tmp_path / "none.toml")


# ── secrets ─────────────────────────────────────────────────────────────────────────────────────────────────────

secrets = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=20).map("q7x".__add__)


@given(secrets)
def test_a_secret_is_shown_nowhere(secret: str) -> None:
    device = resolve(DeviceSettings, text=DEVICE, environment={"HEADWATER_BROKER__PASSWORD": f'"{secret}"'})
    assert device.value.broker.secret() == secret
    url = f"postgresql://me:{secret}@db/history"
    cloud = resolve(CloudSettings, environment={"HEADWATER_DATABASE": url})
    assert cloud.value.database.get_secret_value() == url
    assert ("database", f"postgresql://me:{MASK}@db/history", "HEADWATER_DATABASE") in explain(cloud)
    shown = [
        repr(device.value),
        str(device.value),
        json.dumps(explain(device)),
        repr(cloud.value),
        json.dumps(explain(cloud)),
    ]
    with pytest.raises(Invalid) as caught:
        resolve(
            DeviceSettings, text=DEVICE.replace("port = 1", f'port = 0\npassword = "{secret}"\nsecret = "{secret}"')
        )
    assert not [text for text in (*shown, str(caught.value)) if secret in text]


def test_where_a_secret_lies_is_shown_and_what_is_one_is_not() -> None:
    text = """
[broker]
password_file = "/etc/headwater/password"
[http]
tokens = "/etc/headwater/tokens.toml"
"""
    rows = {key: value for key, value, _ in explain(resolve(CloudSettings, text=text))}
    assert (rows["http.tokens"], rows["broker.password_file"]) == (
        "/etc/headwater/tokens.toml",
        "/etc/headwater/password",
    )
    text = """
node = "d1"
enrol = {token_file = "/var/lib/token"}
[data.d]
kind = "python"
entry = "a:b"
arguments = {token = "t0ken"}
"""
    rows = {key: value for key, value, _ in explain(resolve(DeviceSettings, text=text))}
    assert (rows["enrol.token_file"], rows["data.d.arguments.token"]) == ("/var/lib/token", MASK)


def test_a_password_comes_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    assert BrokerSettings(password_file=tmp_path / "password").secret() == "s3cret"
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        BrokerSettings(password_file=tmp_path / "empty").secret()
    with pytest.raises(ConfigError, match=r"password_file: .*No such file.*give a readable file"):
        BrokerSettings(password_file=tmp_path / "none").secret()


# ── lines ───────────────────────────────────────────────────────────────────────────────────────────────────────

names = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True)
leaves = st.one_of(
    st.integers(-9, 9), st.booleans(), st.text("ab[]=#. ", max_size=6), st.lists(st.integers(0, 9), max_size=3)
)
tables = st.recursive(
    st.dictionaries(names, leaves, max_size=4),
    lambda inner: st.dictionaries(names, inner | leaves, max_size=4),
    max_leaves=12,
)


@given(tables)
def test_every_key_has_the_line_on_which_it_stands(table: dict[str, object]) -> None:
    text = to_toml(table)
    data = tomllib.loads(text)
    lines = locate(text, data)

    def check(value: object, key: tuple[str, ...]) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                check(inner, (*key, name))
        elif key and value != {}:
            assert key[-1] in text.splitlines()[lines[key] - 1]

    check(data, ())


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        pytest.param('a = """\nb = 1\n"""\nb = 2\n', ("b",), 4, id="a key inside a long string"),
        pytest.param("a = [\n  1, # [b]\n  2,\n]\nb = 2\n", ("b",), 5, id="a header inside a list"),
        pytest.param("t = {a = 1, b = 2}\n", ("t", "b"), 1, id="an inline table"),
        pytest.param("t.a = 1\nt.b = 2\n", ("t", "b"), 2, id="dotted keys"),
        pytest.param('["t.x"]\nb = 2\n', ("t.x", "b"), 2, id="a quoted header"),
        pytest.param("# b = 1\n\n[t] # t\nb = 2\n", ("t", "b"), 4, id="comments"),
    ],
)
def test_toml_that_looks_like_something_else_does_not_fool_it(text: str, key: tuple[str, ...], line: int) -> None:
    assert locate(text, tomllib.loads(text))[key] == line


# ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_needs_little_and_survives_json() -> None:
    text = 'name = "n"\ndata = "d"\nrounds = 3\nmodel = {kind = "mlp", features = 2, classes = 2}\n'
    run = resolve(RunDescription, text=text).value
    assert (run.edge_rounds, run.local.epochs, run.cohort.quorum, run.initial) == (1, 1, 0.5, "random")
    assert RunDescription.model_validate_json(run.model_dump_json()) == run


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('model = {kind = "mlp", features = 2, classes = 1}', "cross-entropy needs at least 2"),
        (
            'model = {kind = "mlp", features = 0, classes = 2}',
            "model.features: input should be greater than or equal to 1",
        ),
        ('model = {kind = "onnx", classes = 2}', "model.path: missing"),
        ('objective = "hinge"', "objective: input should be 'cross_entropy', 'binary_cross_entropy', 'mse', 'mae'"),
        (
            'initial = "run:"',
            "initial: give random, run:RUN for the last model of that run, or a file that ends in .npz (it is run:)",
        ),
        ("cohort = {quorum = 0}", "cohort.quorum: input should be greater than 0"),
        ("cohort = {over_selection = 0.3}", "over_selection: 0.3 asks for more children than there are"),
        ("cohort = {deadline_s = -1}", "cohort.deadline_s: input should be greater than 0"),
        ("local = {learning_rate = nan}", "local.learning_rate"),
    ],
)
def test_a_run_that_could_not_work_is_refused(line: str, problem: str) -> None:
    model = "" if line.startswith("model") else 'model = {kind = "mlp", features = 2, classes = 2}\n'
    with pytest.raises(Invalid) as caught:
        resolve(RunDescription, text=f'name = "n"\ndata = "d"\nrounds = 3\n{model}{line}\n', name="run.toml")
    assert problem in str(caught.value)


WRITTEN = (RunDescription, DeviceSettings, GatewaySettings, CloudSettings, DashboardSettings, BridgeSettings)


@pytest.mark.parametrize("model", WRITTEN, ids=lambda model: model.__name__)
def test_nobody_is_told_a_regular_expression(model: type[BaseModel]) -> None:
    # Serialization: what is sent has a schema for every part, where some of what is read has none.
    schema = json.dumps(model.model_json_schema(mode="serialization"))
    patterns = {json.loads(found) for found in re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', schema)}
    assert patterns
    assert patterns <= set(IN_WORDS)


@pytest.mark.parametrize(
    ("model", "text", "problem"),
    [
        (DeviceSettings, '[conditions]\nhours = "22-6"', "conditions.hours: give two times of a day of 24 hours"),
        (DashboardSettings, 'api = "cloud:8080"', "api: give an address without a user, as http://cloud.example:8080"),
        (BridgeSettings, 'system = "home-assistant"\nprefix = "#"', "prefix: give what topics begin with"),
        (DeviceSettings, '[data.d]\nkind = "prepared"\nname = "../x"\nparts = ["a"]', "name: use 1 to 64 letters"),
        (DeviceSettings, '[data.d]\nkind = "python"\nentry = "here"', "entry: give package.module:function"),
    ],
)
def test_what_a_text_must_be_is_told_in_words(model: type[BaseModel], text: str, problem: str) -> None:
    with pytest.raises(Invalid) as caught:
        resolve(model, text=text + "\n", name="a.toml")
    assert problem in str(caught.value)
    assert "pattern" not in str(caught.value)
