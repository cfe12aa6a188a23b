"""Every number of the rendered configurations that no flag sets, with its unit and its reason."""

from datetime import timedelta

# --- bodies and headers

# What ext_authz sees of a body; larger ones are refused. Below gRPC's 4 MiB, above every JSON-RPC call that was measured.
MAX_BODY_BYTES = 65536
# Envoy's default is 60 kB; a chain of five delegation links with an access token has 12.
MAX_REQUEST_HEADERS_KB = 32
# Envoy's default is 100; an agent's call has about 20.
MAX_HEADERS = 64
# Denials of ours have at most 2 kB; Envoy cuts longer ones in the middle.
MAX_DENIED_BODY_BYTES = 4096
# What Envoy buffers for a connection that does not read: the default of 1 MiB, stated.
CONNECTION_BUFFER_BYTES = 1024 * 1024

# --- time

# A body that arrives slower than this is an attack or a broken network.
REQUEST = timedelta(seconds=30)
REQUEST_HEADERS = timedelta(seconds=5)
# From the whole request to the whole answer.
ANSWER = timedelta(seconds=30)
# A call that is no stream, from its first to its last byte: request and answer.
CALL = timedelta(seconds=60)
STREAM_IDLE = timedelta(seconds=60)
CONNECTION_IDLE = timedelta(seconds=300)
UPSTREAM_CONNECTION_IDLE = timedelta(seconds=120)
# Envoy never looks again at a certificate that it accepted. Less than half of an SVID's hour, so that every connection
# proves an SVID that is still valid.
MAX_CONNECTION = timedelta(seconds=1500)
DRAIN = timedelta(seconds=10)
DELAYED_CLOSE = timedelta(seconds=1)
TLS_HANDSHAKE = timedelta(seconds=5)
CONNECT_AUTHZ = timedelta(milliseconds=50)
CONNECT_LOCAL = timedelta(milliseconds=250)
CONNECT_UPSTREAM = timedelta(seconds=1)
KEEPALIVE_INTERVAL = timedelta(seconds=10)
KEEPALIVE_TIMEOUT = timedelta(seconds=2)

# --- HTTP/2

MAX_CONCURRENT_STREAMS = 100
# One small window a stream: 100 streams that nobody reads hold 6.5 MB, not the default's 1.6 GB.
STREAM_WINDOW_BYTES = 65536
CONNECTION_WINDOW_BYTES = 1024 * 1024
# Frames that wait for a peer which does not read; Envoy's default is 10,000.
MAX_OUTBOUND_FRAMES = 1000
MAX_REQUESTS_PER_CONNECTION = 10_000

# --- load

MAX_CALLER_RATE = 1_000_000
# All callers together may send five times what one may.
CALLERS_AT_FULL_RATE = 5
# Callers with a bucket of their own; the least recently seen one loses it.
MAX_RATE_LIMITED_CALLERS = 1000
MAX_HEAP_BYTES = 256 * 1024 * 1024
MAX_CONNECTIONS = 2000
OUTLIER_INTERVAL = timedelta(seconds=5)
EJECTION = timedelta(seconds=10)
# How Envoy is told that a time is not limited.
NO_LIMIT = timedelta(0)
