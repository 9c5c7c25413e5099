"""MKL_DEBUG_CPU_TYPE: the choice for other machines, and its effect on this one."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Optional

import pytest
import torch

from pruning import processor, provenance
from pruning.errors import UserError
from pruning.experiments import directory
from pruning.files import read_json, write_json
from pruning.processor import OWN, VARIABLE
from tests.training.toy import Crash, crashing, make

ROOT = Path(__file__).resolve().parent.parent
FITTING = processor.wanted(
    processor.facts(Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []),
    torch.__version__,
)
READ = processor.reads_variable(torch.__version__)
AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2 fma avx2\n\nprocessor\t: 1\n"
INTEL = AMD.replace("AuthenticAMD", "GenuineIntel")
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n"


def environment(**values: str) -> dict[str, str]:
    """Return this process's environment without the values chosen for it, and with other values."""
    kept = {name: value for name, value in os.environ.items() if name not in (VARIABLE, OWN)}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **values}


def python(program: str, *arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment(**values), capture_output=True, text=True, check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("cpuinfo", "torch_version", "answer"),
    [
        (AMD, "1.13.1", "5"),
        (AMD, "1.13.1+cpu", "5"),
        (AMD, "2.0.0", None),
        (AMD, "2.13.0+cpu", None),
        (AMD, None, None),
        (AMD, "of our own", None),
        (AMD.replace(" avx2", ""), "1.13.1", None),
        (AMD.replace(" fma", ""), "1.13.1", None),
        (AMD.replace(" avx2", " avx2_of_another_kind"), "1.13.1", None),
        (INTEL, "1.13.1", None),
        (ARM, "1.13.1", None),
        ("", "1.13.1", None),
        ("\n\nno key\n", "1.13.1", None),
    ],
)
def test_only_amd_with_avx2_and_an_old_mkl_needs_it(
    cpuinfo: str, torch_version: Optional[str], answer: Optional[str]
) -> None:
    assert processor.wanted(processor.facts(cpuinfo.splitlines()), torch_version) == answer


def test_the_first_processor_speaks_for_all() -> None:
    assert processor.facts((AMD + "vendor_id\t: GenuineIntel\n").splitlines())["vendor_id"] == "AuthenticAMD"


@pytest.mark.parametrize("fitting", ["5", None])
def test_a_users_value_stands_and_an_inherited_one_is_decided_anew(fitting: Optional[str]) -> None:
    assert processor.chosen({}, fitting) == fitting
    assert processor.chosen({VARIABLE: "4"}, fitting) == "4"
    assert processor.chosen({VARIABLE: "5"}, fitting) == "5"
    assert processor.chosen({VARIABLE: ""}, fitting) == ""
    assert processor.chosen({VARIABLE: "5", OWN: "5"}, fitting) == fitting
    assert processor.chosen({VARIABLE: "4", OWN: "5"}, fitting) == "4", "set over the inherited one"
    assert processor.chosen({OWN: "5"}, fitting) == fitting


def test_every_shell_and_every_import_gets_the_same() -> None:
    imported = "import os, pruning; print(os.environ.get('MKL_DEBUG_CPU_TYPE'))"
    assert python(imported).stdout.strip() == str(FITTING)
    assert python(imported, **{VARIABLE: "5", OWN: "5"}).stdout.strip() == str(FITTING)
    assert python(imported, **{VARIABLE: "4"}).stdout.strip() == "4"
    shell = ["bash", "-euc", f'. utils/path.sh; echo "${{{VARIABLE}-None}}"']
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for given, wanted in (({}, str(FITTING)), ({VARIABLE: ""}, ""), ({VARIABLE: "5", OWN: "5"}, str(FITTING))):
        values = environment(PRUNING_ENV="current", PATH=path, **given)
        ended = subprocess.run(shell, env=values, capture_output=True, text=True, check=True, cwd=ROOT)
        assert (ended.stdout.strip(), ended.stderr) == (wanted, "")


def test_a_shell_goes_on_where_python_has_no_torch() -> None:
    program = "import sys\nsys.path[:] = [p for p in sys.path if 'packages' not in p]\nfrom pruning import processor\n"
    lines = python(program + "processor.print_shell()", **{VARIABLE: "5", OWN: "5"}).stdout.splitlines()
    assert lines == [f"unset {VARIABLE}", f"unset {OWN}"]
    assert python(program + "processor.print_shell()", **{VARIABLE: "a b"}).stdout.startswith(
        f"export {VARIABLE}='a b'\n"
    )


def test_import_after_torch_says_that_it_is_too_late() -> None:
    warned = python("import torch, pruning").stderr
    if FITTING is None:
        assert warned == ""
    else:
        assert "pruning was imported after torch" in warned and f"{VARIABLE}={FITTING}" in warned
    assert "pruning" not in python("import torch, pruning", **{VARIABLE: FITTING or ""}).stderr
    assert python("import pruning, torch").stderr == ""


PROGRAM = """
import sys
import pruning
import torch
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.models.conformer import ConformerConfig
torch.manual_seed(0)
encoder = ConformerConfig(d_model=96, num_layers=3, head_dim=24, num_heads=(2,), macaron_dim=(192,), ffn_dim=(192,),
                          conv_channels=(48,), conv_kernel=15, subsampling_channels=(16, 16),
                          subsampling_strides=(2, 2), dropout=0)
encoder = Transducer(TransducerConfig(encoder=encoder, vocab_size=60, decoder_dim=128, joiner_dim=128)).encoder
output = encoder(torch.randn(2, 200, 80), torch.tensor([200, 150])).output
output.square().mean().backward()
torch.save({"output": output.detach(), **{n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}},
           sys.argv[1])
"""


def test_outputs_and_gradients_agree_with_and_without_it(tmp_path: Path) -> None:
    for value in ("5", ""):
        python(PROGRAM, str(tmp_path / f"with{value}.pt"), **{VARIABLE: value})
    without, with_it = torch.load(tmp_path / "with.pt"), torch.load(tmp_path / "with5.pt")
    assert len(without) > 50 and without["output"].abs().sum() > 0
    for name, tensor in without.items():
        scale = float(tensor.abs().max())
        torch.testing.assert_close(with_it[name], tensor, rtol=1e-4, atol=1e-5 * scale + 1e-8)
    if FITTING is not None:
        assert any(not torch.equal(with_it[name], tensor) for name, tensor in without.items()), (
            "the variable had no effect"
        )


def test_what_is_set_is_logged_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, "5")
    with caplog.at_level(logging.INFO):
        make(tmp_path).run()
    said = [message for message in caplog.messages if VARIABLE in message]
    assert len(said) == (1 if READ else 0)
    assert read_json(tmp_path / directory.RUN).get(processor.KEY) == ("5" if READ else None)
    assert provenance.environment("pruning.bin.decode", [], "cpu")[processor.KEY] == ("5" if READ else None)


@pytest.mark.skipif(not READ, reason="this torch's MKL does not read the variable")
def test_a_run_is_not_resumed_with_another_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "5")
    with pytest.raises(Crash):
        make(tmp_path, train_batches=crashing(12)).run()
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(UserError, match="mkl_debug_cpu_type=5, not mkl_debug_cpu_type=None; start with "
                                        "MKL_DEBUG_CPU_TYPE=5 in the environment"):  # fmt: skip
        make(tmp_path)
    began = read_json(tmp_path / directory.RUN)
    earlier = {key: value for key, value in began.items() if key != processor.KEY}
    write_json(tmp_path / directory.RUN, earlier)
    make(tmp_path)  # made by a version that did not record the value: not compared
    write_json(tmp_path / directory.RUN, began)
    monkeypatch.setenv(VARIABLE, "5")
    make(tmp_path).run()
    monkeypatch.setenv(VARIABLE, "")
    make(tmp_path).run()  # done: nothing is computed


def test_the_explanation_says_what_is_set_and_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_torch_version", lambda: "1.13.1")
    monkeypatch.setattr(processor, "_fitting", lambda: "5")
    monkeypatch.setenv(VARIABLE, "5")
    assert processor.explanation() == "MKL_DEBUG_CPU_TYPE=5: torch 1.13.1 computes with MKL's code for AVX2"
    monkeypatch.setenv(VARIABLE, "")
    assert str(processor.explanation()).endswith("as set by the user; MKL_DEBUG_CPU_TYPE=5 fits this machine")
    monkeypatch.setattr(processor, "_fitting", lambda: None)
    assert processor.explanation() is None
    monkeypatch.setenv(VARIABLE, "4")
    assert "for processors of type 4" in str(processor.explanation())
