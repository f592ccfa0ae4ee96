"""EMQX's files say what Mosquitto's do; no EMQX runs here."""

from headwater.schemas.acl import fleet_acl, joined, viewers_acl
from headwater.transport.emqx import acl_conf, users_csv

ACL = joined(fleet_acl("plant", parents=["cloud"]), viewers_acl("plant", ["anna"]))


def test_each_rule_is_a_term() -> None:
    lines = acl_conf(ACL).splitlines()
    assert '{allow, all, subscribe, ["hw/1/plant/node/${username}/#"]}.' in lines
    assert '{allow, {user, "cloud"}, publish, ["hw/1/plant/rounds/#"]}.' in lines
    assert '{allow, {user, "anna"}, subscribe, ["hw/1/plant/rounds/#"]}.' in lines
    assert sum(line.startswith("{allow,") for line in lines) == len(ACL.rules)


def test_what_is_not_allowed_is_refused() -> None:
    assert acl_conf(ACL).splitlines()[-1] == "{deny, all}."


def test_a_stranger_is_denied_before_everyone_is_allowed() -> None:
    lines = acl_conf(ACL).splitlines()
    denied = lines.index('{deny, {user, "anna"}, all, ["#"]}.')
    assert all(line.startswith("{allow, all,") for line in lines[denied + 1 : -1])
    assert max(i for i, line in enumerate(lines) if '"anna"' in line) == denied


def test_nothing_of_mosquittos_language_is_left() -> None:
    assert "%u" not in acl_conf(ACL)


def test_people_have_passwords() -> None:
    assert users_csv({"anna": "s3cret"}) == "user_id,password,is_superuser\nanna,s3cret,false\n"
