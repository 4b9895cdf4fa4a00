"use strict";
// Node's https alone, used as the Membrane Service's documentation uses it: options with a hostname, an authorization
// header and perhaps a method and a path; a body written without its length being said; the answer's status, and then
// its body, on standard output.
//
//   standard input   {"options", "body"?}

const fs = require("fs");
const https = require("https");

const { options, body } = JSON.parse(fs.readFileSync(0, "utf8"));
const req = https.request(options, (resp) => {
    console.log(resp.statusCode);
    resp.on("data", (data) => process.stdout.write(data.toString()));
    resp.on("end", () => process.stdout.write("\n"));
});
req.on("error", (error) => {
    console.error(error);
    process.exitCode = 1;
});
if (body !== undefined) {
    req.write(JSON.stringify(body));
}
req.end();
