from types import SimpleNamespace

import pytest

from optimus_server.bench.compilations import compilations

knobs = pytest.importorskip("triton").knobs


def test_names_of_what_is_compiled_meanwhile():
    before = knobs.runtime.jit_post_compile_hook
    with compilations() as names:
        knobs.runtime.jit_post_compile_hook(fn=SimpleNamespace(name="paged"), key="", repr="")
    assert names == ["paged"]
    assert knobs.runtime.jit_post_compile_hook is before


def test_triton_calls_the_hook_with_the_kernels_name():
    """Triton passes keywords only, with the function as ``fn``; compiling itself needs a GPU."""
    import inspect

    from triton.runtime.jit import JITFunction, JitFunctionInfo

    assert "fn=JitFunctionInfo(" in inspect.getsource(JITFunction._call_hook)
    assert "name" in inspect.signature(JitFunctionInfo).parameters
