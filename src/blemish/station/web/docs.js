/** Writes /openapi.json out for people: routes, then the types they name. */

import { urlOf } from "./api.js";
import { at, h } from "./dom.js";

const anchor = (text) => text.replace(/[^A-Za-z0-9]+/g, "-");

/** What a schema is, in words; a type of its own is a link. */
function typeOf(schema) {
  if (!schema) return ["anything"];
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return [h("a", { href: `#type-${name}` }, name)];
  }
  if (schema.anyOf) return schema.anyOf.flatMap((one, i) => (i ? [" or ", ...typeOf(one)] : typeOf(one)));
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" | ")];
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  if (schema.prefixItems)
    return ["[", ...schema.prefixItems.flatMap((one, i) => (i ? [", ", ...typeOf(one)] : typeOf(one))), "]"];
  if (schema.type === "array") return ["list of ", ...typeOf(schema.items)];
  return [
    [schema.type ?? "anything", schema.format && `(${schema.format})`, limits(schema)]
      .filter(Boolean)
      .join(" "),
  ];
}

function limits({ minimum, maximum, maxLength, pattern }) {
  const range = minimum !== undefined && maximum !== undefined ? `${minimum} to ${maximum}` : null;
  return [range, maxLength && `up to ${maxLength} characters`, pattern && `matching ${pattern}`]
    .filter(Boolean)
    .join(", ");
}

const table = (rows) =>
  h(
    "table",
    {},
    h(
      "tbody",
      {},
      rows.map((cells) =>
        h(
          "tr",
          {},
          cells.map((cell) => h("td", {}, cell)),
        ),
      ),
    ),
  );

function described(schema, text) {
  const initial =
    schema?.default !== undefined && schema.default !== null
      ? `; default ${JSON.stringify(schema.default)}`
      : "";
  return [...typeOf(schema), initial, text ? `: ${text}` : ""];
}

function contentOf(content = {}) {
  return Object.entries(content).flatMap(([kind, { schema }], i) => [
    i ? ", or " : "",
    kind,
    ...(schema ? [" ", ...typeOf(schema)] : []),
  ]);
}

function formOf(content = {}) {
  const fields = content["multipart/form-data"]?.schema?.properties ?? {};
  return Object.entries(fields).map(([name, schema]) => [`form: ${name}`, typeOf(schema)]);
}

/** One line for all codes that answer the same. */
function answersOf(responses) {
  const codes = new Map();
  for (const [code, { content }] of Object.entries(responses)) {
    const key = JSON.stringify(content ?? {});
    codes.set(key, [...(codes.get(key) ?? []), code]);
  }
  return [...codes].map(([key, same]) => [same.join(", "), contentOf(JSON.parse(key))]);
}

function routeOf(path, method, route) {
  const parameters = (route.parameters ?? []).map((p) => [
    `${p.name}${p.required ? "" : "?"}`,
    described(p.schema, p.description ?? p.schema?.description),
  ]);
  const body = route.requestBody;
  return h(
    "section",
    { class: "route card", id: anchor(`${method}${path}`) },
    h("h3", {}, h("span", { class: `method ${method}` }, method.toUpperCase()), path),
    h("p", {}, (route.description ?? route.summary ?? "").replaceAll("`", "")),
    ...(parameters.length ? [h("h4", {}, "Parameters"), table(parameters)] : []),
    ...(body
      ? [
          h("h4", {}, "Body"),
          h("p", {}, (body.description ?? "").replaceAll("`", ""), " ", contentOf(body.content)),
          table(formOf(body.content)),
        ]
      : []),
    h("h4", {}, "Answers"),
    table(answersOf(route.responses)),
  );
}

function typeSection([name, schema]) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([field, of]) => [
    `${field}${required.has(field) ? "" : "?"}`,
    described(of, of.description),
  ]);
  return h(
    "section",
    { class: "type card", id: `type-${name}` },
    h("h3", {}, name),
    h("p", {}, (schema.description ?? "").replaceAll("`", "")),
    table(rows),
  );
}

async function begin() {
  at("example").textContent = `curl --data-binary @part.png '${urlOf("/v1/inspections")}?part=A-17'`;
  const response = await fetch(urlOf("/openapi.json"));
  if (!response.ok) throw new Error((await response.json()).detail);
  const { paths, components } = await response.json();
  const routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => [path, method, route]),
  );
  at("contents").replaceChildren(
    ...routes.map(([path, method]) =>
      h(
        "a",
        { class: "button small", href: `#${anchor(`${method}${path}`)}` },
        `${method.toUpperCase()} ${path.replace("/v1", "")}`,
      ),
    ),
  );
  at("routes").replaceChildren(...routes.map((route) => routeOf(...route)));
  at("types").replaceChildren(...Object.entries(components.schemas).map(typeSection));
  at("types-title").hidden = false;
  at("state").remove();
}

begin().catch((error) => (at("state").textContent = error.message));
