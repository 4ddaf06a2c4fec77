"""The shop that the demo deploys: one page that says which release it is, and a health check."""

import http.server
import os

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "release")) as file:
    RELEASE = file.read().strip()
HEALTHY = not RELEASE.endswith("-broken")


class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            self.answer(200 if HEALTHY else 500, f"{'fine' if HEALTHY else 'the database schema is too old'}\n")
        else:
            self.answer(200, f"shop {RELEASE} on {os.environ.get('TARGET', '?')}\n")

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    address = (os.environ.get("ADDRESS", "127.0.0.1"), int(os.environ["PORT"]))
    print(f"shop {RELEASE} listens on {address[0]}:{address[1]}", flush=True)
    http.server.ThreadingHTTPServer(address, Shop).serve_forever()
