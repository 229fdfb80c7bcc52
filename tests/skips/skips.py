#!/usr/bin/env python3
"""Skips instructions of the card's decisions, one at a time, on an emulated Cortex-M4.

    skips.py IMAGE SCENARIOS.json [--occurrences N] [--at-most N] [--only NAME] [--without NAME] [--in FUNCTION]

A decision is a command that must be refused (crates/card/sekisho-applets/tests/skips.rs). It is played once to see each instruction that it runs; then, for each of
them (an address that runs often: its first and last N times), once more with that one instruction left out. What comes of it:

    same     the answer and everything behind it are as they were
    other    another refusal
    silent   a fault, a loop or a panic: the chip would be reset
    longer   a refusal with bytes before it: of what the answer's buffer held
    lied     it says that it has succeeded, and has not: what needs it is refused
    opened   the door is open: data come, or a command behind it succeeds that needs it

Ends with a table and "N passed, N failed"; a decision passes when nothing opens it that open.txt does not list.
"""
import argparse, json, os, struct, time
from collections import Counter, defaultdict
from pathlib import Path

from elftools.elf.elffile import ELFFile
from unicorn import UC_ARCH_ARM, UC_HOOK_CODE, UC_MODE_MCLASS, UC_MODE_THUMB, Uc, UcError
from unicorn.arm_const import *

# The function returns to where nothing is; RAM and stack are where a Cortex-M has RAM.
CODE, RAM, STACK, END = 0, 0x2000_0000, 0x3000_0000, 0x1F_F000
SIZE, STACK_SIZE = 2 << 20, 1 << 20
LONG = 400_000_000
OUTCOMES = ("same", "other", "silent", "longer", "lied", "opened")
PROCESSES = os.cpu_count() or 1
NOPS = {2: b"\x00\xBF", 4: b"\xAF\xF3\x00\x80"}


class Chip:
    """The card's image in an emulated Cortex-M4."""

    def __init__(self, path):
        self.elf = ELFFile(open(path, "rb"))
        table = self.elf.get_section_by_name(".symtab")
        self.symbols = {s.name: s["st_value"] & ~1 for s in table.iter_symbols() if s.name}
        functions = [(s["st_value"] & ~1, s["st_size"], s.name) for s in table.iter_symbols() if s["st_info"]["type"] == "STT_FUNC"]
        self.functions = sorted(functions)
        self.uc = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        self.uc.ctl_set_cpu_model(UC_CPU_ARM_CORTEX_M4)
        for start, size in ((CODE, SIZE), (RAM, SIZE), (STACK, STACK_SIZE)):
            self.uc.mem_map(start, size)
        for segment in self.elf.iter_segments():
            if segment["p_type"] == "PT_LOAD":
                self.uc.mem_write(segment["p_vaddr"], segment.data())
        sections = [s for s in self.elf.iter_sections() if s["sh_addr"] >= RAM]
        self.ram = max(s["sh_addr"] + s["sh_size"] for s in sections) - RAM

    def function_of(self, address):
        import bisect
        at = bisect.bisect_right(self.functions, (address, 1 << 40, "")) - 1
        return self.functions[at][2] if at >= 0 else "?"

    def enter(self, name, argument=0):
        """Ready to run a function."""
        self.uc.reg_write(UC_ARM_REG_R0, argument)
        self.uc.reg_write(UC_ARM_REG_SP, STACK + STACK_SIZE - 64)
        self.uc.reg_write(UC_ARM_REG_LR, END | 1)
        self.uc.reg_write(UC_ARM_REG_PC, self.symbols[name])

    def go_on(self, count=LONG):
        """Runs; whether the function has returned."""
        self.uc.emu_start(self.uc.reg_read(UC_ARM_REG_PC) | 1, END, count=count)
        return self.uc.reg_read(UC_ARM_REG_PC) == END

    def call(self, name, argument=0):
        self.enter(name, argument)
        if not self.go_on():
            raise RuntimeError(f"{name} does not return")
        return self.uc.reg_read(UC_ARM_REG_R0)

    def give(self, capdu):
        self.uc.mem_write(self.symbols["COMMAND"], capdu)
        self.enter("command", len(capdu))

    def answer(self):
        return bytes(self.uc.mem_read(self.symbols["ANSWER"], min(self.uc.reg_read(UC_ARM_REG_R0), 2048)))

    def transmit(self, capdu):
        self.give(capdu)
        if not self.go_on():
            raise RuntimeError("no answer")
        return self.answer()

    def step(self, what):
        if what == "reset":
            self.call("reset")
            return None
        return self.transmit(bytes.fromhex(what[0]))

    def save(self):
        return self.uc.context_save(), bytes(self.uc.mem_read(RAM, self.ram)), bytes(self.uc.mem_read(STACK + STACK_SIZE - 0x20000, 0x20000))

    def restore(self, saved):
        context, ram, stack = saved
        self.uc.mem_write(RAM, ram)
        self.uc.mem_write(STACK + STACK_SIZE - 0x20000, stack)
        self.uc.context_restore(context)


def ready(path, scenario):
    """A chip that has heard all that leads to the decision, and gave the answers of the card in the scenarios' process."""
    chip = Chip(path)
    chip.uc.mem_write(chip.symbols["FLASH"], bytes.fromhex(scenario["flash"]))
    if chip.call("start", scenario["seed"]) != 1:
        raise RuntimeError("the card does not start")
    for what in scenario["setup"]:
        answer = chip.step(what)
        if answer is not None and answer.hex() != what[1]:
            raise RuntimeError(f"{what[0]}: {answer.hex()} and not {what[1]}")
    return chip


def trace(chip):
    """The instructions of the function that was entered: address and length of each, in order."""
    seen = []
    # What has been translated without the hook would run without it.
    chip.uc.ctl_flush_tb()
    hook = chip.uc.hook_add(UC_HOOK_CODE, lambda uc, address, size, _: seen.append((address, size)))
    if not chip.go_on():
        raise RuntimeError("no answer")
    chip.uc.hook_del(hook)
    chip.uc.ctl_flush_tb()
    return seen


def chosen(seen, occurrences):
    places = defaultdict(list)
    for number, (address, _) in enumerate(seen):
        places[address].append(number)
    picked = set()
    for numbers in places.values():
        picked.update(numbers[:occurrences])
        picked.update(numbers[-occurrences:])
    return sorted(picked)


def stops(chip, seen):
    """Where the emulator can stop: it carries out what an IT instruction covers together with it. For each instruction, the one to stop at."""
    stop, covered, it = [], set(), 0
    for number, (address, _) in enumerate(seen):
        if address in covered:
            stop.append(it)
            continue
        stop.append(number)
        covered = set()
        (half,) = struct.unpack("<H", chip.uc.mem_read(address, 2))
        if half & 0xFF00 == 0xBF00 and half & 0xF:
            it, at = number, address + 2
            for _ in range(4 - ((half & 0xF) & -(half & 0xF)).bit_length() + 1):
                covered.add(at)
                (first,) = struct.unpack("<H", chip.uc.mem_read(at, 2))
                at += 4 if first >> 11 in (0b11101, 0b11110, 0b11111) else 2
    return stop


def fork(work):
    """Runs `work` in a copy of this process, emulator and all; its result is the exit code."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(OUTCOMES.index(work()))
        finally:
            os._exit(len(OUTCOMES))
    return child


def tried(chip, scenario, address, size, count, ran):
    """Runs on, the last of `count` instructions, at `address`, doing nothing: NOP, which counts for an IT instruction before it too."""
    there = bytes(chip.uc.mem_read(address, size))
    try:
        chip.uc.mem_write(address, NOPS[size])
        chip.uc.ctl_flush_tb()
        chip.go_on(count)
        chip.uc.mem_write(address, there)
        chip.uc.ctl_flush_tb()
        return outcome(chip, scenario, 2 * ran + 200_000)
    except UcError:
        return "silent"


def outcome(chip, scenario, limit):
    """What comes of a decision that is under way."""
    refused, *behind = scenario["attack"]
    honest = [bytes.fromhex(refused[1])] + [bytes.fromhex(what[1]) for what in behind if what != "reset"]
    try:
        if not chip.go_on(limit):
            return "silent"
        answers = [chip.answer()]
        for what in behind:
            answer = chip.step(what)
            if answer is not None:
                answers.append(answer)
    except (UcError, RuntimeError):
        return "silent"
    # An answer that came before, given once more, is none to the question.
    stale = [bytes.fromhex(what[1]) for what in scenario["setup"] if what != "reset"]
    succeeds = lambda answer: answer[-2:] == b"\x90\x00" and answer not in (old for old in stale if len(old) > 2)
    shut = [bytes.fromhex(answer) for answer in scenario.get("shut", [])]
    for answer, right in zip(answers[1:], honest[1:]):
        if answer != right and succeeds(answer) and answer not in shut:
            return "opened"
    if answers[0].hex() == scenario["open"]:
        return "opened"
    if succeeds(answers[0]):
        return "lied"
    if len(answers[0]) > len(honest[0]):
        return "longer"
    return "same" if answers == honest else "other"


def decide(path, scenario, arguments):
    chip = ready(path, scenario)
    attack = bytes.fromhex(scenario["attack"][0][0])
    before = chip.save()
    chip.give(attack)
    seen = trace(chip)
    if chip.answer().hex() != scenario["attack"][0][1]:
        raise RuntimeError(f"{scenario['name']}: refused with {chip.answer().hex()}")
    chip.restore(before)
    chip.give(attack)
    stop = stops(chip, seen)
    counts, opened, at, running = Counter(), [], 0, []

    def note(child, address):
        _, status = os.waitpid(child, 0)
        what = OUTCOMES[os.waitstatus_to_exitcode(status)] if os.WIFEXITED(status) else "silent"
        counts[what] += 1
        if what == "opened":
            opened.append((address, chip.function_of(address)))

    numbers = [n for n in chosen(seen, arguments.occurrences) if arguments.within in chip.function_of(seen[n][0])]
    if arguments.at_most:
        numbers = numbers[:: -(-len(numbers) // arguments.at_most)]
    for number in numbers:
        address, size = seen[number]
        if stop[number] > at:
            chip.go_on(stop[number] - at)
            at = stop[number]
        if chip.uc.reg_read(UC_ARM_REG_PC) != seen[at][0]:
            raise RuntimeError(f"{scenario['name']}: at {chip.uc.reg_read(UC_ARM_REG_PC):x}, not at {seen[at][0]:x}")
        running.append((fork(lambda: tried(chip, scenario, address, size, number - at + 1, len(seen))), address))
        while len(running) >= PROCESSES:
            note(*running.pop(0))
    while running:
        note(*running.pop(0))
    return len(seen), counts, opened


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("scenarios")
    parser.add_argument("--occurrences", type=int, default=2)
    parser.add_argument("--only")
    parser.add_argument("--without", help="not the decision whose name has this")
    parser.add_argument("--at-most", type=int, help="so many skips of a decision, evenly spread")
    parser.add_argument("--in", dest="within", default="", help="only functions whose names have this")
    arguments = parser.parse_args()
    known = Path(__file__).with_name("open.txt").read_text().splitlines()
    known = dict(line.split(": ", 1) for line in known if line and not line.startswith("#"))
    print(f"{'decision':24} {'ran':>9} {'skipped':>8}" + "".join(f"{what:>8}" for what in OUTCOMES))
    passed = failed = 0
    total = Counter()
    for scenario in json.loads(Path(arguments.scenarios).read_text()):
        name = scenario["name"]
        if arguments.only and arguments.only not in name or arguments.without and arguments.without in name:
            continue
        ran, counts, opened = decide(arguments.image, scenario, arguments)
        print(f"{name:24} {ran:9} {sum(counts.values()):8}" + "".join(f"{counts[what]:8}" for what in OUTCOMES), flush=True)
        for address, function in opened:
            print(f"    {address:#x} in {function}")
        # What opens a decision is nothing, or as much as is known.
        good = counts["same"] and len(opened) <= int(known.get(name, "0").split()[0])
        total += counts
        passed, failed = passed + bool(good), failed + (not good)
    for what in ("same", "other", "silent"):
        if not total[what]:
            print(f"no skip came out as {what}")
            failed += 1
    print(f"{passed} passed, {failed} failed")
    raise SystemExit(failed != 0)


main()
