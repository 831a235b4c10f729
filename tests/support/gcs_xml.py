"""Google Cloud Storage's XML API in front of a server that knows the JSON API alone (fake-gcs-server).

obstore writes, lists and deletes by the XML API. Each request becomes one of the JSON API, conditions included; parts
of an upload wait here until it is completed. Requests of the JSON API, by which Google's own clients do all, pass.
"""

from __future__ import annotations

import http.client
import itertools
import json
from datetime import datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.support.servers import AnyMethodHandler, LoopbackServer

_JSON_API = ("/storage/v1/", "/upload/storage/v1/", "/download/storage/v1/")
_JSON_REQUEST = ("Content-Type", "Content-Range", "Range", "X-Upload-Content-Type")
_JSON_ANSWER = ("Content-Type", "Content-Range", "Location", "Range")
_JSON_HEADERS = ("Content-Range", "Etag", "Last-Modified", "X-Goog-Generation")


class XmlApi(LoopbackServer):
    """Translates for the server at ``upstream``, ``host:port``.

    Args:
        upstream: of the JSON API.
        conditions: whether they are passed on; without, this is a store that lets every writer win.
    """

    def __init__(self, upstream: str, conditions: bool = True) -> None:
        self.upstream, self.conditions = upstream, conditions
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.numbers = itertools.count(1)
        super().__init__(_Translate)


class _Translate(AnyMethodHandler):
    def answer_any(self) -> None:
        path, _, query = self.path.partition("?")
        self._query = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        _, bucket, *key = unquote(path).split("/", 2)
        self._bucket, self._key = f"/storage/v1/b/{quote(bucket)}/o", "".join(key)
        self._object = f"{self._bucket}/{quote(self._key, safe='')}"
        length = int(self.headers.get("Content-Length") or 0)
        self._body = self.rfile.read(length)
        if len(self._body) < length:
            self.close_connection = True
            return None
        if self.path.startswith(_JSON_API):
            return self._pass_on()
        if not self._key:
            return self._list()
        upload = self._query.get("uploadId")
        if self.command == "POST":
            return self._complete(upload) if upload else self._begin()
        if self.command == "PUT":
            return self._part(upload) if upload else self._put(self._body)
        if self.command == "DELETE":
            return self._delete(upload)
        self._get()

    def _pass_on(self) -> None:
        asked = {name: self.headers[name] for name in _JSON_REQUEST if name in self.headers}
        status, headers, body = self._ask(self.command, self.path, self._body, asked)
        self._say(status, body, {name: headers[name] for name in _JSON_ANSWER if name in headers})

    def _get(self) -> None:
        if self.command == "GET":
            asked = {"Range": self.headers["Range"]} if "Range" in self.headers else {}
            status, headers, body = self._ask("GET", f"{self._object}?alt=media", headers=asked)
            return self._say(status, body, {name: headers[name] for name in _JSON_HEADERS if name in headers})
        status, _, body = self._ask("GET", self._object)
        if status != 200:
            return self._say(status, b"")
        found = json.loads(body)
        modified = format_datetime(datetime.fromisoformat(found["updated"]), usegmt=True)
        headers = {"Content-Length": found["size"], "Last-Modified": modified, **self._versions(found)}
        self._say(200, b"", headers)

    def _put(self, content: bytes) -> None:
        asked = {"uploadType": "media", "name": self._key}
        condition = self.headers.get("x-goog-if-generation-match")
        if condition is not None and self.server.owner.conditions:
            asked["ifGenerationMatch"] = condition
        upload = self._bucket.replace("/storage", "/upload/storage", 1)
        status, _, body = self._ask("POST", f"{upload}?{urlencode(asked)}", content)
        if status != 200:
            return self._say(status, _error("NoSuchBucket" if status == 404 else status, body))
        versions = self._versions(json.loads(body))
        done = f"<CompleteMultipartUploadResult><ETag>{versions['ETag']}</ETag></CompleteMultipartUploadResult>"
        self._say(200, done.encode() if self.command == "POST" else b"", versions)

    def _delete(self, upload: str | None) -> None:
        if upload:
            self.server.owner.uploads.pop(upload, None)
            return self._say(204, b"")
        status, _, body = self._ask("DELETE", self._object)
        self._say(204 if status == 200 else status, b"" if status == 200 else _error(status, body))

    def _begin(self) -> None:
        number = str(next(self.server.owner.numbers))
        self.server.owner.uploads[number] = {}
        answer = f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
        self._say(200, answer.encode())

    def _part(self, upload: str) -> None:
        self.server.owner.uploads[upload][int(self._query["partNumber"])] = self._body
        self._say(200, b"", {"ETag": f'"{upload}-{self._query["partNumber"]}"'})

    def _complete(self, upload: str) -> None:
        wanted = [
            int(element.text or 0)
            for element in ElementTree.fromstring(self._body).iter()
            if "PartNumber" in element.tag
        ]
        parts = self.server.owner.uploads.pop(upload)
        self._put(b"".join(parts[number] for number in wanted))

    def _list(self) -> None:
        names = {
            "prefix": "prefix",
            "delimiter": "delimiter",
            "continuation-token": "pageToken",
            "max-keys": "maxResults",
        }
        asked = {names[name]: value for name, value in self._query.items() if name in names}
        status, _, body = self._ask("GET", f"{self._bucket}?{urlencode(asked)}")
        if status != 200:
            return self._say(status, _error(status, body))
        found = json.loads(body)
        parts = [
            f"<Contents><Key>{escape(item['name'])}</Key><LastModified>{item['updated']}</LastModified>"
            f"<ETag>{item['etag']}</ETag><Size>{item['size']}</Size></Contents>"
            for item in found.get("items", ())
        ]
        parts += [f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in found.get("prefixes", ())]
        if token := found.get("nextPageToken"):
            parts.append(f"<NextContinuationToken>{escape(token)}</NextContinuationToken>")
        self._say(200, f"<ListBucketResult>{''.join(parts)}</ListBucketResult>".encode())

    def _versions(self, found: dict[str, Any]) -> dict[str, str]:
        return {"ETag": f'"{found["etag"]}"', "x-goog-generation": found["generation"]}

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, Any, bytes]:
        upstream = http.client.HTTPConnection(self.server.owner.upstream, timeout=60)
        try:
            upstream.request(method, path, body, headers or {})
            answer = upstream.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            upstream.close()

    def _say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _error(code: int | str, body: bytes) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{escape(body.decode(errors='replace'))}</Message></Error>".encode()
