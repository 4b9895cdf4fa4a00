"use strict";
// Runs an example of capability-sdk's own documentation, taken from the installed package as it stands there: all that
// is changed are the capability URIs. Prints what the example logged, as JSON.
//
//   standard input   {"document", "heading", "example", "uris"}: the `example`th block of code below that heading, in
//                    which the first URI becomes uris[0], the next one uris[1], …; "edit"?: [from, to]

const fs = require("fs");
const path = require("path");
const vm = require("vm");

const { document, heading, example, uris, edit } = JSON.parse(fs.readFileSync(0, "utf8"));
const folder = path.dirname(require.resolve("capability-sdk/package.json"));
const text = fs.readFileSync(path.join(folder, document), "utf8");

function blocks(markdown) {
    return [...markdown.matchAll(/^```javascript\n([^]*?)^```$/gm)].map(([, code]) => code);
}

// What every page of it begins with: require, and the service.
const [prelude] = blocks(text);
const [, below] = text.split(`\n#### ${heading}\n`);
const section = below.split(/^#+ /m)[0];
let code = blocks(section)[example];
const published = [...new Set(code.match(/cpblty:\/\/[^"`]+/g))];
uris.forEach((uri, index) => {
    code = code.replaceAll(published[index], uri);
});
if (edit !== undefined) {
    const [from, to] = edit;
    if (!code.includes(from)) {
        throw new Error(`the example has no ${from}`);
    }
    code = code.replace(from, to);
}

const logged = [];
const plain = (value) => (value instanceof Error ? { name: value.name, message: value.message } : value);
const log = (...values) => logged.push(values.map(plain));
const run = vm.runInThisContext(`(function (require, console) {${prelude}\n${code}\n})`, { filename: document });
process.on("exit", () => fs.writeSync(1, JSON.stringify(logged)));
run(require, { log, error: log });
