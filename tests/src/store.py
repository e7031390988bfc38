"""ClickHouse's engine for the tests: answers one query, with the rows to insert below it, on each connection to a Unix domain socket."""

import json
import socketserver
import sys

from chdb.session import Session

session = Session(sys.argv[1])


class Query(socketserver.StreamRequestHandler):
    def handle(self):
        query = self.rfile.read().decode()
        try:
            answer = {"rows": [json.loads(row) for row in str(session.query(query, "JSONEachRow")).splitlines()]}
        except Exception as error:
            answer = {"error": str(error)}
        self.wfile.write(json.dumps(answer).encode())


with socketserver.UnixStreamServer(sys.argv[2], Query) as server:
    server.serve_forever()
