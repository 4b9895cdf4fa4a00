// A copy of the filter in which a request with very many headers traps its VM, as a fault of the filter's would: so that what follows can be
// tested, without a switch in the module that is shipped.
//
//     node trapping.mjs MEMBRANE.WASM OUT.WASM HEADERS
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [, , from, to, headers] = process.argv;
const place = new URL("../../.tools/binaryen/node_modules/binaryen/index.js", import.meta.url);
const { default: binaryen } = await import(pathToFileURL(place.pathname));

const EXPORT = "proxy_on_request_headers";
const module = binaryen.readBinary(readFileSync(from));
// Those of the Makefile's WASM_FEATURES: with more, what is written is not what Envoy's V8 reads.
const { BulkMemory, BulkMemoryOpt, SignExt, MutableGlobals, NontrappingFPToInt, ReferenceTypes, Multivalue, SIMD128 } = binaryen.Features;
module.setFeatures(BulkMemory | BulkMemoryOpt | SignExt | MutableGlobals | NontrappingFPToInt | ReferenceTypes | Multivalue | SIMD128);
let original;
for (let index = 0; index < module.getNumExports(); index++) {
  const exported = binaryen.getExportInfo(module.getExportByIndex(index));
  if (exported.name === EXPORT) original = exported.value;
}
if (!original) throw new Error(`${from} does not export ${EXPORT}`);

// (context, number of headers, whether they end the request) -> status
const { i32, createType } = binaryen;
const parameter = (index) => module.local.get(index, i32);
const trapping = module.block(null, [
  module.if(module.i32.ge_u(parameter(1), module.i32.const(Number(headers))), module.unreachable()),
  module.return(module.call(original, [parameter(0), parameter(1), parameter(2)], i32)),
]);
module.addFunction("trapping", createType([i32, i32, i32]), i32, [], trapping);
module.removeExport(EXPORT);
module.addFunctionExport("trapping", EXPORT);
if (!module.validate()) throw new Error("the changed module is not valid");
writeFileSync(to, module.emitBinary());
