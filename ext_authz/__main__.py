"""`python -m ext_authz` is `ext-authz`."""

from ext_authz.cli.main import run

if __name__ == "__main__":
    run()
