"""What the boards show in /sys, as far as the lab reads it: constructed after the kernels' drivers.

A file in a value's place: its text. A link in a value's place: `→ target`, relative, as sysfs has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

PI: Final = {
    "sys/devices/virtual/thermal/thermal_zone0/temp": "51614\n",
    "sys/class/thermal/thermal_zone0": "→ ../../devices/virtual/thermal/thermal_zone0",
    "sys/devices/virtual/thermal/thermal_zone0/hwmon0/temp1_input": "51614\n",
    "sys/devices/virtual/thermal/thermal_zone0/hwmon0/name": "cpu_thermal\n",
    "sys/class/hwmon/hwmon0": "→ ../../devices/virtual/thermal/thermal_zone0/hwmon0",
    "sys/devices/platform/soc/soc:firmware/raspberrypi-hwmon/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
    "sys/devices/platform/soc/soc:firmware/raspberrypi-hwmon/hwmon/hwmon1/name": "rpi_volt\n",
}

_INA = "sys/devices/platform/bus@0/c240000.i2c/i2c-1/1-0040/hwmon/hwmon3"
ORIN: Final = {
    "sys/devices/platform/bus@0/17000000.gpu/load": "437\n",
    "sys/devices/platform/gpu.0": "→ bus@0/17000000.gpu",
    f"{_INA}/in1_label": "VDD_IN\n",
    f"{_INA}/in1_input": "5056\n",
    f"{_INA}/curr1_input": "1384\n",
    "sys/bus/i2c/drivers/ina3221/1-0040": "→ ../../../../devices/platform/bus@0/c240000.i2c/i2c-1/1-0040",
    "sys/devices/virtual/thermal/thermal_zone0/temp": "47843\n",
    "sys/devices/virtual/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0": "→ ../../devices/virtual/thermal/thermal_zone0",
}

NANO: Final = {
    "sys/devices/57000000.gpu/load": "990\n",
    "sys/devices/gpu.0": "→ 57000000.gpu",
    "sys/devices/7000c400.i2c/i2c-6/6-0040/iio:device0/in_power0_input": "4321\n",
    "sys/bus/i2c/drivers/ina3221x/6-0040": "→ ../../../../devices/7000c400.i2c/i2c-6/6-0040",
}

BOARDS: Final = {"pi": PI, "jetson-orin": ORIN, "jetson-nano": NANO, "none": {}}

# measurement, field, value: what Telegraf must say of these trees.
SAYS: Final = {
    "pi": {("pi_temperature", "millidegrees", 51614), ("pi_supply", "too_weak", 1)},
    "jetson-orin": {
        ("jetson_gpu", "load_per_mille", 437),
        ("board_power", "millivolts", 5056),
        ("board_power", "milliamperes", 1384),
    },
    "jetson-nano": {("jetson_gpu", "load_per_mille", 990), ("board_power", "milliwatts", 4321)},
    "none": set(),
}


def build(board: str, root: Path) -> Path:
    """The board's tree below `root`, which stands for /hostfs."""
    for name, content in BOARDS[board].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("→ "):
            path.symlink_to(content[2:])
        else:
            path.write_text(content)
    return root
