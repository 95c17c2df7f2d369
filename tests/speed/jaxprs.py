"""Walks through jaxprs: all that a program does, whatever loop, branch or call it does it in."""

CALLBACKS = {
    "pure_callback", "io_callback", "debug_callback", "debug_print", "python_callback", "outside_call", "infeed",
    "outfeed",
}  # fmt: skip


def inner(value):
    """The jaxprs within a parameter of an equation."""
    for item in value if isinstance(value, tuple | list) else (value,):
        if hasattr(item, "eqns"):
            yield item
        elif hasattr(item, "jaxpr"):
            yield item.jaxpr


def equations(jaxpr, branches=True):
    """All equations of a jaxpr, those inside loops, branches and calls included; once each, however often they run."""
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield eqn
        if eqn.primitive.name == "cond" and not branches:
            continue
        for value in eqn.params.values():
            for one in inner(value):
                yield from equations(one, branches)


def callbacks(jaxpr, branches=True):
    """The primitives of a jaxpr that ask the host; perhaps without those that only some branch holds."""
    names = {eqn.primitive.name for eqn in equations(jaxpr, branches)}
    return {n for n in names if n in CALLBACKS or "callback" in n}
