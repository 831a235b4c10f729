"""Prism, Beam's own portable runner for one machine: a small program in Go that gives work to workers of this process.

A second witness that a job runs on portable engines, without a cluster.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from apache_beam.options.pipeline_options import PortableOptions, PrismRunnerOptions
from apache_beam.runners.portability.prism_runner import PrismJobServer
from apache_beam.version import __version__ as beam_version

from noisebank.errors import ConfigError
from runners.endpoints import ask_options
from runners.engine import Engine, Needs

PROGRAM = "prism"
_INSTALL = f"go install github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam_version}"
_LOOPBACK = "LOOPBACK"


class PrismEngine(Engine):
    """Prism, which is started for the job, or is there already (``--job_endpoint``)."""

    @property
    def shares_this_process(self) -> bool:
        """Whether the workers are threads of this process, as they are unless the options say otherwise."""
        return self.options.view_as(PortableOptions).environment_type in (None, _LOOPBACK)

    def prepare(self, needs: Needs) -> None:
        """Finds the program, and has the work done in this process unless the options say otherwise; checks what any
        engine does.

        Raises:
            ConfigError: there is no such program, or no job server at the endpoint.
        """
        portable = self.options.view_as(PortableOptions)
        if portable.job_endpoint:
            ask_options(portable.job_endpoint, "job_endpoint")
        else:
            self.options.view_as(PrismRunnerOptions).prism_location = self._find_program()
        portable.environment_type = portable.environment_type or _LOOPBACK
        super().prepare(needs)

    def _find_program(self) -> str:
        """The path of the program: as given, on the PATH, or where Beam keeps what it downloaded; an address as given,
        for Beam to download."""
        given = self.options.view_as(PrismRunnerOptions).prism_location
        if given:
            if "://" in given:
                return str(given)
            if os.access(given, os.X_OK) and Path(given).is_file():
                return str(Path(given).absolute())  # (a bare name would be looked for on the PATH)
            raise ConfigError(f"--prism_location: {given!r} is no program; {_INSTALL} makes one")
        places = os.pathsep.join([os.environ.get("PATH", ""), PrismJobServer.BIN_CACHE])
        if found := shutil.which(PROGRAM, path=places):
            return found
        raise ConfigError(f"--prism_location: {PROGRAM} is not on the PATH; install it by {_INSTALL}, or name its file")
