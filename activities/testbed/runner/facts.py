"""Mode ``facts``: what the base's Python says about itself, for resolving requirements outside."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from .host import Host


def run(job: dict[str, Any], host: Host) -> dict[str, Any]:
    """Marker variables (PEP 508), the C library's version and the machine."""
    version = platform.python_version()
    implementation = sys.implementation.version
    return {
        "markers": {
            "implementation_name": sys.implementation.name,
            "implementation_version": f"{implementation.major}.{implementation.minor}.{implementation.micro}",
            "os_name": os.name,
            "platform_machine": platform.machine(),
            "platform_python_implementation": platform.python_implementation(),
            "platform_release": "",
            "platform_system": platform.system(),
            "platform_version": "",
            "python_full_version": version,
            "python_version": ".".join(version.split(".")[:2]),
            "sys_platform": sys.platform,
        },
        "libc": list(platform.libc_ver()),
    }
