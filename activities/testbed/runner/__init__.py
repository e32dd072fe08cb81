"""What runs inside the sandbox, bound at ``/gen4``: the standard library only, plus the target's own pytest.

``main.py`` is started as a script and gives these modules the package name ``_gen4``, so that none of them can
shadow or be shadowed by a module of the target. They import each other relatively and nothing of the rest of ours.
"""
