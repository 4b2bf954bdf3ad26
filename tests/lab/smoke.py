"""A look at fresh machines before anybody builds on them: one clear line when something is wrong."""

from __future__ import annotations

from tests.lab import gateway, machines, plan
from tests.lab.errors import LabError

# Without credentials the proxy has to answer 407: then name server, gateway and squid all work.
PROXY = (
    f"exec 3<>/dev/tcp/proxy.{plan.ZONE}/{plan.PROXY_PORT}"
    " && printf 'GET http://lab.invalid/ HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 5 head -n 1 <&3"
)
WAY_OUT = f"timeout 0.7 bash -c '</dev/tcp/{plan.INTERNET}/443'"
CLEAN = "rm -rf /run/lab-lists; exit $rc"


def check(name: str) -> None:
    """Look at a machine.

    Raises:
        LabError: The proxy doesn't answer it, or it gets out without the proxy.
    """
    answer = _run(name, PROXY)[1]
    if " 407 " not in answer:
        raise LabError(
            f"Machine {name} does not reach the proxy: proxy.{plan.ZONE}:{plan.PROXY_PORT} said '{answer.strip()}'"
            " instead of 407. See `docker exec slipway-gateway systemctl status squid lab-dns@corp`."
        )
    if _run(name, WAY_OUT)[0] == 0:
        raise LabError(f"Machine {name} reaches {plan.INTERNET} without the proxy: the network is not internal.")


def check_packages(name: str) -> None:
    """Let a machine's apt read its archives through the proxy; leaves nothing behind.

    Raises:
        LabError: It could not.
    """
    options = f"-o Acquire::http::Proxy='{gateway.proxy_url()}' -o Dir::State::lists=/run/lab-lists"
    code, output = _run(name, f"mkdir -p /run/lab-lists/partial && apt-get -q {options} update; rc=$?; {CLEAN}")
    if code:
        raise LabError(f"Machine {name} gets no packages through the proxy: {output[-800:]}")


def _run(name: str, script: str) -> tuple[int, str]:
    result = machines.existing(name).exec_run(["bash", "-c", script])
    return int(result.exit_code), str(result.output.decode(errors="replace"))
