"""What a certificate may promise to be the host of."""

import pytest

from headwater.trust.hosts import MAX_HOSTS, check_hosts
from headwater.trust.problems import Untrusted


@pytest.mark.parametrize("host", ["broker", "broker.local", "*.plant.example", "10.0.0.7", "::1", "pump_7.local"])
def test_an_address_or_a_name_is_a_host(host: str) -> None:
    check_hosts([host])


@pytest.mark.parametrize("host", ["", "*", "a.*.b", "**.a", "not a host!", "bröker", "a/b", "-a", "10.0.0.0/8", "a:1"])
def test_what_is_neither_is_told_with_its_value(host: str) -> None:
    with pytest.raises(Untrusted, match="neither an address nor a host name; give") as refused:
        check_hosts(["broker", host])
    assert repr(host) in str(refused.value)


def test_hosts_have_a_bound() -> None:
    check_hosts(["a"] * MAX_HOSTS)
    with pytest.raises(Untrusted, match=f"{MAX_HOSTS + 1}; at most {MAX_HOSTS}"):
        check_hosts(["a"] * (MAX_HOSTS + 1))
