"""What the soak is told: how many kills, by which signals, from which seed (`make soak`)."""

import os
import signal

KILLS = int(os.environ.get("KICK_SOAK_KILLS", "1000"))  # half of sweeps, a quarter of each command
SEED = int(os.environ.get("KICK_SOAK_SEED", "20240501"))
SIGNALS = 7 * (signal.SIGKILL,) + 2 * (signal.SIGTERM,) + (signal.SIGINT,)
