"""Law: nothing on the wire is unbounded; every bound of the protocol has its one name here."""

from typing import Final

PROTOCOL_VERSION: Final = 1

CHUNK_SIZE_BYTES: Final = 256 * 1024
"""Payload of one chunk: keeps a control message under 140 ms behind a 20 MB object."""

MAX_MESSAGE_SIZE_BYTES: Final = CHUNK_SIZE_BYTES + 16 * 1024
"""One MQTT payload. A broker's own packet limit must be at least this."""

MAX_OBJECT_SIZE_BYTES: Final = 64 * 1024 * 1024
"""One chunked object: a model, a bundle of graphs or a delta."""

MAX_WHEEL_SIZE_BYTES: Final = 16 * 1024 * 1024
"""Headwater itself, as one file of a release; a gateway keeps one beside its models."""

MAX_CANARIES: Final = 64
"""Nodes that a stage of a release names."""

MAX_PACKED_SIZE_BYTES: Final = 64 * 1024
"""Of a message that is packed as a whole: beside a larger update its names and keys are nothing."""

MAX_CHUNKS: Final = MAX_OBJECT_SIZE_BYTES // CHUNK_SIZE_BYTES
MAX_TENSORS: Final = 4096
MAX_RANK: Final = 8
MAX_METRICS: Final = 64
MAX_TALLY_LENGTH: Final = 4096
MAX_TALLIED: Final = 2**40
"""A device's count in one place of a tally; thousands of devices' then add up exactly in float64."""

MAX_CLUSTERS: Final = 64
"""Global models that coexist in a run."""

MAX_COUNT: Final = 2**53
"""Of examples and devices: the largest up to which every whole number is exact in float64."""

MAX_WEIGHED: Final = 1e100
"""Of a weight, and of a metric's mean over it: the sums and means of whatever a parent's children send stay finite."""

MAX_CERTIFICATE_SIZE_BYTES: Final = 8 * 1024
"""In DER; one of this project's has about 400."""

MAX_AUTHORITIES_SIZE_BYTES: Final = 32 * 1024
"""Of the authorities that a node is told when it enrols, in PEM."""

MAX_REQUEST_SIZE_BYTES: Final = 4 * 1024
"""Of a request for a certificate, in PEM."""

SIGNATURE_SIZE_BYTES: Final = 64
"""Of Ed25519."""

MAX_NAME_LENGTH: Final = 128
MAX_TEXT_LENGTH: Final = 1024
MAX_MAP_ENTRIES: Final = 256
MAX_ARRAY_ENTRIES: Final = MAX_TENSORS
MAX_STATUS_SIZE_BYTES: Final = 256 * 1024
"""One JSON message for people; the largest lists a cluster's members."""

MAX_CHILDREN: Final = 10_000
"""Children of one parent. A larger fleet takes another level of the tree."""
