// Holds Kubernetes resources against their published schemas.
//
// Usage: check.mjs FOLDER     a JSON list of resources comes on standard input; node_modules lies in FOLDER
//
// Twice, since the schemas let unknown fields pass, which a cluster then drops without a word: by the schema, and by the compiler as a value
// of the type that was made of it, which allows no other field. Prints a list: for each resource null, or why it is refused.

import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const folder = resolve(process.argv[2]);
const require = createRequire(pathToFileURL(join(folder, "check.cjs")));
const resources = JSON.parse(readFileSync(0, "utf8"));

/** The package that has a kind's model, by the group's name. */
function packageOf(group) {
  if (group.endsWith(".istio.io")) return "@kubernetes-models/istio";
  if (group === "gateway.networking.k8s.io") return "@kubernetes-models/gateway-api";
  if (group === "gateway.envoyproxy.io") return "@kubernetes-models/envoy-gateway";
  throw new Error(`no schemas for ${group}`);
}

const modelOf = ({ apiVersion, kind }) => `${packageOf(apiVersion.split("/")[0])}/${apiVersion}/${kind}`;

async function bySchema(resource) {
  try {
    const path = join(folder, "node_modules", modelOf(resource));
    const file = existsSync(`${path}.mjs`) ? `${path}.mjs` : `${path}.js`;
    const model = await import(pathToFileURL(file));
    new model[resource.kind](resource).validate();
    return null;
  } catch (error) {
    return String(error.message);
  }
}

/** The compiler's complaints, by the number of the resource. */
function byType() {
  const place = mkdtempSync(join(folder, "check-"));
  try {
    const files = resources.map((resource, number) => {
      const file = join(place, `resource${number}.mts`);
      const type = `I${resource.kind}`;
      const value = JSON.stringify(resource, null, 1);
      writeFileSync(file, `import { ${type} } from "${modelOf(resource)}";\nexport const resource: ${type} = ${value};\n`);
      return file;
    });
    const options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext"];
    const compiler = require.resolve("typescript/bin/tsc");
    try {
      execFileSync(process.execPath, [compiler, ...options, ...files], { cwd: place, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
      return new Map();
    } catch (error) {
      const complaints = new Map();
      for (const line of error.stdout.split("\n")) {
        const found = /resource(\d+)\.mts\(\d+,\d+\): (.*)/.exec(line);
        if (found) complaints.set(Number(found[1]), found[2]);
      }
      if (!complaints.size) throw new Error(error.stdout);
      return complaints;
    }
  } finally {
    rmSync(place, { recursive: true });
  }
}

const types = byType();
const refusals = [];
for (const [number, resource] of resources.entries()) {
  refusals.push((await bySchema(resource)) ?? types.get(number) ?? null);
}
console.log(JSON.stringify(refusals));
