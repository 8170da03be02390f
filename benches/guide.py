"""The guide's own script for one file, in Python 3 and with nothing but the standard library.

Step for step what "Manage Azure ML web services using API Management" has people run: upload, submit, start, look once a
second, download the first output. One process a file, a connection a request, the same two blob names each time.

    guide.py INPUT OUTPUT      with BES_URL, API_KEY and CONNECTION_STRING in the environment
    guide.py --container       makes the container that the guide takes for granted
"""

import base64
import datetime
import hashlib
import hmac
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

CONTAINER = "guide"
INPUT_BLOB = "mydatablob.csv"
OUTPUT_BLOB = "myresultsblob.csv"


def call(method, url, body=None, headers=None):
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        print("The request failed with status code: " + str(error.code))
        print(error.info())
        print(json.loads(error.read()))
        sys.exit(1)


# https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
def put(account, path, query, body, more):
    now = datetime.datetime.now(datetime.timezone.utc)
    headers = {"x-ms-date": now.strftime("%a, %d %b %Y %H:%M:%S GMT"), "x-ms-version": "2020-10-02", **more}
    canonical = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    endpoint = urllib.parse.urlsplit(account["BlobEndpoint"])
    resource = "/" + account["AccountName"] + endpoint.path + path
    resource += "".join(f"\n{name}:{value}" for name, value in sorted(query.items()))
    length = str(len(body)) if body else ""
    content_type = "application/octet-stream"
    to_sign = f"PUT\n\n\n{length}\n\n{content_type}\n\n\n\n\n\n\n{canonical}{resource}"
    key = base64.b64decode(account["AccountKey"])
    signature = base64.b64encode(hmac.new(key, to_sign.encode(), hashlib.sha256).digest()).decode()
    headers["Authorization"] = "SharedKey " + account["AccountName"] + ":" + signature
    headers["Content-Type"] = content_type
    url = account["BlobEndpoint"] + path + ("?" + urllib.parse.urlencode(query) if query else "")
    call("PUT", url, body, headers)


def main():
    connection_string = os.environ["CONNECTION_STRING"]
    account = dict(part.split("=", 1) for part in connection_string.split(";") if part)
    if sys.argv[1:] == ["--container"]:
        put(account, "/" + CONTAINER, {"restype": "container"}, b"", {})
        return
    input_file, output_file = sys.argv[1:]
    url, api_key = os.environ["BES_URL"].split("?")[0], os.environ["API_KEY"]
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + api_key}

    with open(input_file, "rb") as file:
        content = file.read()
    put(account, "/" + CONTAINER + "/" + INPUT_BLOB, {}, content, {"x-ms-blob-type": "BlockBlob"})

    def blob(name):
        return {"ConnectionString": connection_string, "RelativeLocation": "/" + CONTAINER + "/" + name}

    payload = {"Input": blob(INPUT_BLOB), "Outputs": {"output1": blob(OUTPUT_BLOB)}, "GlobalParameters": {}}
    job_id = call("POST", url + "?api-version=2.0", json.dumps(payload).encode(), headers).decode()[1:-1]
    call("POST", url + "/" + job_id + "/start?api-version=2.0", b"", headers)

    while True:
        answer = call("GET", url + "/" + job_id + "?api-version=2.0", None, {"Authorization": "Bearer " + api_key})
        result = json.loads(answer)
        status = result["StatusCode"]
        if status in (2, "Failed", 3, "Cancelled"):
            print("Job " + job_id + " ended: " + str(result["Details"]))
            sys.exit(1)
        if status in (4, "Finished"):
            break
        time.sleep(1)

    first = next(iter(result["Results"].values()))
    output = call("GET", first["BaseLocation"] + first["RelativeLocation"] + first["SasBlobToken"])
    with open(output_file, "wb") as file:
        file.write(output)


main()
