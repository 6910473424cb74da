"""HTTP to servers that are not trusted.

client: one request and its whole reply, bounded in seconds and bytes. checks: URLs, keys, JSON and text that go into a
request or come out of a reply.
"""

from vpdlab.net.checks import checked_key, checked_url, printable, read_json
from vpdlab.net.client import HEADERS, BadReply, Late, NoReply, Reply, Unreachable, exchange

__all__ = [
    "exchange", "Reply", "NoReply", "Late", "Unreachable", "BadReply", "HEADERS", "checked_url", "checked_key",
    "read_json", "printable",
]  # fmt: skip
