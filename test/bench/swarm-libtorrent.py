"""One libtorrent session of the bench: swarm-libtorrent.py TORRENT DIRECTORY [seed]. Runs until it is killed."""
import sys
import time

import libtorrent as lt

session = lt.session({
    "listen_interfaces": "0.0.0.0:6881",
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_incoming_utp": False, "enable_outgoing_utp": False,
    "out_enc_policy": 2, "in_enc_policy": 2,  # plain text alone
    "allow_multiple_connections_per_ip": True,
    "connection_speed": 500, "torrent_connect_boost": 100, "min_reconnect_time": 1,
    "peer_turnover": 0, "peer_turnover_cutoff": 100,
    "choking_algorithm": 0, "unchoke_slots_limit": -1, "unchoke_interval": 1, "optimistic_unchoke_interval": 1,
    "max_out_request_queue": 2000, "max_allowed_in_request_queue": 4000,
    "send_buffer_watermark": 3 << 20, "send_buffer_watermark_factor": 150,
    "max_queued_disk_bytes": 64 << 20,
})
info = lt.torrent_info(sys.argv[1])
seeds = len(sys.argv) > 3
params = lt.add_torrent_params()
params.ti = info
params.save_path = sys.argv[2]
params.flags = lt.torrent_flags.seed_mode if seeds else 0
session.add_torrent(params)
while True:
    time.sleep(60)
