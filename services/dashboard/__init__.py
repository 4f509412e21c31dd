"""The page at `/`: what is recommended and why, traffic as it is read, versions side by side.

`app.py` puts it behind an application's own routes; `versions.py` answers what the page asks of the
registry, `memories.py` what it asks of the error memories; `admin.py` is a router of what needs an
admin key, which any application can mount; `static/` is the page as it is sent. Its scripts are ES
modules that the browser reads as they are: nothing is bundled, and nothing comes from another host.
All else that it shows comes from the routes under `/v1`, like any other client's answers. Knows no
other room of this floor.
"""

from services.dashboard.app import install

__all__ = ["install"]
