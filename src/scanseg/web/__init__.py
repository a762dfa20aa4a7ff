"""``scanseg serve``: a page for people and an interface for programs, on one's own machine.

==============  ==================================================================================
limits          what one request may cost, and the answer to one that asks for more
words           the words of a request, as text or JSON
engine          the process that decodes photos and runs the models; talks over a pipe
worker          the server's side of that pipe: a queue, time limits, a fresh engine after a fault
guard           around every request: host, origin, size, slowness, security headers
protocol        uvicorn's HTTP connections, with an end to slow ones
metrics         counters in Prometheus' text format
examples        sample photos of installed packages
app             the routes
server          binds the port and runs it all
static/         the page: plain HTML, CSS and JavaScript modules, nothing from elsewhere
==============  ==================================================================================

Needs the extra ``[web]``. The server's process decodes no image and loads no network; what could
go wrong there happens in the engine's process, which can be ended and started again
(``docs/decisions/0090``).
"""
