// Puts a file as an object, or gets one, as AWS's SDK for JavaScript does it unless told otherwise:
// put|put-buffer|get URL BUCKET KEY FILE. `put` sends a stream, `put-buffer` a buffer, which the SDK treats differently.
import { createReadStream, createWriteStream, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { pipeline } from "node:stream/promises";

// The modules lie where tests/tools/install.sh puts them, not beside this file.
const require = createRequire(`${process.env.MEMBRANE_NODE_S3}/`);
const { S3Client, PutObjectCommand, GetObjectCommand } = require("@aws-sdk/client-s3");

const [what, endpoint, Bucket, Key, file] = process.argv.slice(2);
const client = new S3Client({
  endpoint,
  region: "us-east-1",
  // Credentials that nothing accepts: the capability's stand in their place.
  credentials: { accessKeyId: "AKIANOBODY", secretAccessKey: "nothing" },
  forcePathStyle: true,
  maxAttempts: 1,
});
if (what === "get") {
  const { Body } = await client.send(new GetObjectCommand({ Bucket, Key }));
  await pipeline(Body, createWriteStream(file));
} else {
  const Body = what === "put" ? createReadStream(file) : readFileSync(file);
  await client.send(new PutObjectCommand({ Bucket, Key, Body, ContentLength: statSync(file).size }));
}
