"""What else is on the GPU, and what holds it back: its memory, heat, power and PCIe link. Standard library only."""

from __future__ import annotations

from cadmllm.doctor.cards import Card, Holder, card_of
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.probe import Probe, run_probe
from cadmllm.plan.changes import way
from cadmllm.plan.memory import predict
from cadmllm.plan.parts import UnknownShape
from cadmllm.plan.sizes import GIB

HOT = 85  # degrees C, the guide's limit (train/watch.py warns at the same)
LOW_POWER = 0.6  # of the usual limit: below it steps take noticeably longer; our own advice for a hot card is 0.85
NARROW, WIDE = 4, 8  # lanes: a card that could have 8 or more has lost most of them at 4 or fewer
BUSY = 30  # percent: a card that works; an idle one drops its PCIe generation
HELD = GIB // 4  # a process that holds less is not worth naming first
NAMED = 4  # processes that are named
# nvml.h, nvmlClocksEventReason*; the software power cap is left out: a busy card works under it all day
THROTTLED = {
    0x80: "its power supply brakes it",
    0x40: "it is too hot (hardware)",
    0x20: "it is too hot (driver)",
    0x08: "the hardware slows it down",
}
HEAT, POWER = 0x60, 0x80
# the only switch there is; some drivers ignore it under WSL (github.com/microsoft/WSL/issues/11050): never the first remedy
POLICY = (
    "NVIDIA Control Panel on Windows > Manage 3D settings > Global > CUDA - Sysmem Fallback Policy: Prefer No Sysmem Fallback, "
    "then in Windows: wsl --shutdown (some drivers ignore it under WSL: cadmllm doctor --only spill tells)"
)
SPILL_SECONDS, BLOCK = 120.0, GIB // 4
SPILLED = 5  # times slower than the first blocks: GDDR is 20 and more times as fast as PCIe
_SPILL = """
import time, torch
device, share, block, free = torch.device(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
cuda = device.type == "cuda"
if cuda:
    free = torch.cuda.mem_get_info(device)[0]
say(free=free)
blocks = []
try:
    while (len(blocks) + 1) * block <= share * free:
        blocks.append(torch.zeros(block, dtype=torch.uint8, device=device))
        if cuda:
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        for _ in range(4):
            blocks[-1].copy_(blocks[0])
        if cuda:
            torch.cuda.synchronize(device)
        say(rate=4 * block / max(time.perf_counter() - begun, 1e-9))
except RuntimeError as error:
    say(full=str(error)[:200])
"""


def check_load(situation: Situation) -> Outcome:
    """The run finds the memory it needs, and nothing slows the card down."""
    card = card_of(situation)
    if card is None:
        return Outcome(skipped="device is cpu" if situation.needed.device == "cpu" else "there is no GPU")
    wsl = situation.machine.wsl
    findings = [*_judge_room(situation, card), *judge_heat(card, wsl), *judge_power(card, wsl), *judge_link(card)]
    parts = [f"{card.free / GIB:.1f} of {card.total / GIB:.1f} GiB free"]
    if card.temperature is not None:
        parts.append(f"{card.temperature} C")
    if card.width is not None and card.most_width is not None:
        parts.append(f"PCIe x{card.width} of x{card.most_width}")
    return Outcome(", ".join(parts), tuple(findings), details=tuple(_details(card)))


def plan_total(situation: Situation) -> int | None:
    """Bytes of the card that the hungriest of the stages takes by the plan; None where a model's size is not known."""
    try:
        needs = [predict(situation.needed, stage, device="cuda").total for stage in situation.stages or (3,)]
    except UnknownShape:
        return None
    return max(needs)


def _judge_room(situation: Situation, card: Card) -> list[Finding]:
    """A plan that fits the card and not what is free of it; one beyond the card is for the check of the plan to say."""
    need, wsl = plan_total(situation), situation.machine.wsl
    if need is None or not card.total or need <= card.free:
        return []
    findings = []
    numbers = f"the run takes {need / GIB:.1f} GiB by the plan; {card.free / GIB:.1f} of {card.total / GIB:.1f} GiB are free"
    if need <= card.total:
        remedy = "close what else uses the GPU" + (", by Windows' Task Manager > Details > Dedicated GPU memory" if wsl else "")
        if not wsl:
            large = [one for one in card.processes or () if (one.bytes or 0) >= HELD and not one.draws]
            remedy += ": " + (f"kill {' '.join(str(one.pid) for one in large)}" if large else "nvidia-smi lists it")
        findings.append(Finding("E852", Level.WARN, "gpu-load", f"{numbers}: {held_by(card)}", remedy))
    if wsl:
        message = f"{numbers}, and under WSL what does not fit spills into main memory: about 10 times slower, with no error"
        smaller = way(situation.needed, situation.stages or (3,), card.free).advice or "a smaller preset (cadmllm plan)"
        findings.append(Finding("E856", Level.WARN, "gpu-load", message, f"{smaller}; or, to fail instead of spilling: {POLICY}"))
    return findings


def held_by(card: Card) -> str:
    """Who holds the rest of a card's memory, as far as NVML says."""
    held = card.total - card.free
    text = f"{held / GIB:.1f} GiB are held"
    if card.processes is None:
        text += ", by programs that NVML does not name here"
    elif card.processes:
        ordered = sorted(card.processes, key=lambda one: -(one.bytes or 0))
        text += " by " + ", ".join(_name(one) for one in ordered[:NAMED])
        text += f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    else:
        text += " by the driver itself" if held < GIB else " by no process that NVML sees (perhaps another container's)"
    return text + (", among it the screen" if card.display else "")


def _name(holder: Holder) -> str:
    name = (holder.name or "a process").replace("\\", "/").rsplit("/", 1)[-1].split(" ")[0]
    size = f" {holder.bytes / GIB:.1f} GiB" if holder.bytes is not None else ""
    return f"{name} (pid {holder.pid}){size}"


def judge_heat(card: Card, wsl: bool) -> list[Finding]:
    """A card that is hot before the run has begun, or whose clocks are held back."""
    bits = card.throttle or 0
    why = next((text for bit, text in THROTTLED.items() if bits & bit), "")
    hot = card.temperature is not None and card.temperature > HOT
    if not why and not hot:
        return []
    at = f" at {card.temperature} C" if card.temperature is not None else ""
    said = f"runs slower than it could{at}: {why}" if why else f"is{at} before the run has begun (wanted: {HOT} at most)"
    message = f"the {card.name} {said}"
    if bits & POWER and not bits & HEAT and not hot:
        look = f"nvidia-smi -i {card.uuid} -q -d PERFORMANCE"
        remedy = f"see to its power: every cable of the card plugged in, a laptop on its charger; then: {look}"
    elif hot or bits & HEAT:
        base = card.limit or card.usual_limit
        watts = f"{0.85 * base:.0f}" if base else "WATTS"
        remedy = f"give it air (fans, dust, room around it), or let it draw less power: {_set_limit(card, watts, wsl)}"
    else:
        remedy = f"see what holds it back: nvidia-smi -i {card.uuid} -q -d PERFORMANCE"
    return [Finding("E854", Level.WARN, "gpu-load", message, remedy)]


def judge_power(card: Card, wsl: bool) -> list[Finding]:
    """A power limit far below the card's own."""
    if not card.limit or not card.usual_limit or card.limit >= LOW_POWER * card.usual_limit:
        return []
    message = f"the {card.name} may draw {card.limit:.0f} W of its usual {card.usual_limit:.0f}: every step takes longer"
    remedy = f"{_set_limit(card, f'{card.usual_limit:.0f}', wsl)} (a laptop: plug it in)"
    return [Finding("E854", Level.WARN, "gpu-load", message, remedy)]


def _set_limit(card: Card, watts: str, wsl: bool) -> str:
    where = "in an administrator's terminal of Windows: " if wsl else "sudo "
    return f"{where}nvidia-smi -i {card.uuid} -pl {watts}"


def judge_link(card: Card) -> list[Finding]:
    """A PCIe link that has lost most of its lanes, or is slow under load; NVML's most is what card and slot allow together."""
    width, most, now, best = card.width, card.most_width, card.generation, card.most_generation
    if width and most and width <= NARROW and most >= WIDE:
        slow = f"what goes to and from main memory is {most // width} times slower"
        message = f"the {card.name} has {width} of {most} PCIe lanes: {slow}"
        remedy = (
            f"look again under load: nvidia-smi -i {card.uuid} --query-gpu=pcie.link.width.current --format=csv -l 1; "
            "if it stays so, switch off and reseat the card or its riser, in the mainboard's first long slot"
        )
        return [Finding("E855", Level.WARN, "gpu-load", message, remedy)]
    if now and best and now < best - 1 and (card.utilisation or 0) >= BUSY:
        message = f"the {card.name} is {card.utilisation} % busy over PCIe {now}.0, and could have {best}.0"
        remedy = "set the slot's PCIe generation to auto in the mainboard's firmware; without a riser if it stays so"
        return [Finding("E855", Level.WARN, "gpu-load", message, remedy)]
    return []


def _details(card: Card) -> list[str]:
    lines = [held_by(card)]
    if card.power is not None and card.limit is not None:
        usual = f", {card.usual_limit:.0f} as built" if card.usual_limit else ""
        lines.append(f"{card.power:.0f} W of {card.limit:.0f} allowed{usual}")
    refused = [
        name
        for name, value in (
            ("other processes", card.processes),
            ("temperature", card.temperature),
            ("power", card.power),
            ("throttling", card.throttle),
            ("PCIe link", card.width),
        )
        if value is None
    ]
    if refused:
        lines.append(f"NVML does not tell here: {', '.join(refused)}")
    return lines


def check_spill(situation: Situation) -> Outcome:
    """Under WSL: filling the card shows whether the driver lets it spill into main memory."""
    if not situation.machine.wsl:
        return Outcome(skipped="only the driver of Windows does this, and this is not WSL")
    card = card_of(situation)
    if card is None:
        return Outcome(skipped="device is cpu" if situation.needed.device == "cpu" else "there is no GPU")
    device = situation.needed.device
    device = "cuda" if device == "auto" else device
    arguments = (device, "0.95", str(BLOCK), "0")
    return _judge_spill(card, run_probe(_SPILL, *arguments, seconds=SPILL_SECONDS, environ=situation.machine.environ))


def _judge_spill(card: Card, probe: Probe) -> Outcome:
    rates = [line["rate"] for line in probe.lines if "rate" in line]
    filled, at = len(rates) * BLOCK / GIB, spilled_at(rates)
    if at is not None:
        slow = f"{rates[at] / 1e9:.1f} GB/s where the first blocks were copied at {_usual(rates) / 1e9:.0f}"
        message = f"the {card.name} spills into main memory from {at * BLOCK / GIB:.2f} GiB on: {slow}"
        return Outcome(findings=(Finding("E856", Level.WARN, "spill", message, _below(at)),))
    if probe.end.startswith("no answer"):
        message = f"filling the {card.name} gave {probe.end} after {filled:.1f} GiB, as if it spilled into main memory"
        return Outcome(findings=(Finding("E856", Level.WARN, "spill", message, _below(len(rates))),))
    if probe.end:
        message = f"filling the {card.name} ended after {filled:.1f} GiB with {probe.end} {probe.stderr}".rstrip()
        remedy = "in a terminal of Windows: wsl --shutdown; if it stays so, install the newest NVIDIA driver on Windows"
        return Outcome(findings=(Finding("E811", Level.FAIL, "spill", message, remedy),))
    full = next((line["full"] for line in probe.lines if "full" in line), "")
    details = (f"copied at {_usual(rates) / 1e9:.0f} GB/s" + (f"; then it said: {full}" if full else ""),)
    return Outcome(f"{filled:.1f} GiB filled without a spill", details=details)


def _below(blocks: int) -> str:
    return f"keep the run below {blocks * BLOCK / GIB:.1f} GiB (cadmllm plan tells what it takes); or {POLICY}"


def spilled_at(rates: list[float]) -> int | None:
    """The first block from which on copies are `SPILLED` times slower than usual; None where none is. Bytes a second.

    One slow block alone is a hiccup of the machine, unless it is the last.
    """
    usual = _usual(rates)
    slow = [rate < usual / SPILLED for rate in rates]
    for k, here in enumerate(slow):
        if here and all(slow[k : k + 2]):
            return k
    return None


def _usual(rates: list[float]) -> float:
    first = sorted(rates[: max(1, len(rates) // 3)])
    return first[len(first) // 2] if first else 0.0


CHECKS = (
    Check(
        "gpu-load",
        "the memory that the run needs is free; the card is neither hot, throttled, short of power nor on a narrow link",
        ("E852", "E854", "E855", "E856"),
        check_load,
        needs=("pynvml",),
        group="gpu",
    ),
    Check(
        "spill",
        "under WSL, a full card fails instead of spilling into main memory",
        ("E811", "E856"),
        check_spill,
        needs=("torch", "pynvml"),
        group="gpu",
        deep=True,
    ),
)
