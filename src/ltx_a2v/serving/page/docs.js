// The API's operations and fields, drawn from the server's own schema.

const $ = (id) => document.getElementById(id);
const METHODS = ["get", "post", "delete"];
const REF = "#/components/schemas/";

$("first").textContent = `curl ${location.origin}/v1/videos \\
  -F prompt='A young woman speaks calmly to the camera.' \\
  -F input_reference=@face.png -F audio=@speech.wav

curl -N ${location.origin}/v1/videos/ID/events  # until it has ended
curl -o video.mp4 ${location.origin}/v1/videos/ID/content`;

function element(tag, text = "", ...children) {
  const made = document.createElement(tag);
  made.textContent = text;
  made.append(...children);
  return made;
}

function operation(method, path, { description = "", summary, parameters = [], requestBody, responses }) {
  const head = element("summary", "", element("b", method.toUpperCase()), element("code", path), ` – ${description.split(/[.:]\s|[.:]$/)[0] || summary}`);
  const about = element("details", "", head, element("p", description));
  if (requestBody) {
    const kinds = Object.entries(requestBody.content).map(([kind, { schema }]) => [kind, link(schema)]);
    about.append(table("Body", ["Type", "Fields"], kinds));
  }
  if (parameters.length) about.append(table("Parameters", ["Name", "Type", "Meaning"], parameters.map(parameter)));
  about.append(table("Replies", ["Status", "Meaning", "Fields"], Object.entries(responses).map(reply)));
  return about;
}

function parameter({ name, schema, description, required, in: place }) {
  const meaning = [description ?? schema.description, required ? "Required." : "", place === "header" ? "A header." : ""];
  return [element("code", name), kind(schema), meaning.filter(Boolean).join(" ")];
}

function reply([status, { description, content = {} }]) {
  const schema = Object.values(content)[0]?.schema;
  return [status, description, schema ? link(schema) : ""];
}

function shape(name, { description = "", properties, required = [] }) {
  const rows = Object.entries(properties).map(([field, schema]) => {
    const fallback = "default" in schema && schema.default !== null ? `Default: ${JSON.stringify(schema.default)}. ` : "";
    const meaning = `${schema.description ?? ""} ${fallback}${required.includes(field) ? "Required." : ""}`;
    return [element("code", field), kind(schema), meaning.trim()];
  });
  const about = element("section", "", element("h3", name), element("p", description));
  about.id = name;
  about.append(table(name, ["Field", "Type", "Meaning"], rows));
  return about;
}

function table(label, heads, rows) {
  const head = element("tr", "", ...heads.map((text) => Object.assign(element("th", text), { scope: "col" })));
  const body = rows.map((cells) => element("tr", "", ...cells.map((cell) => element("td", "", cell))));
  const made = element("table", "", element("thead", "", head), element("tbody", "", ...body));
  made.setAttribute("aria-label", label);
  const wide = Object.assign(element("div", "", made), { className: "wide", tabIndex: 0 });
  wide.setAttribute("role", "region");
  wide.setAttribute("aria-label", label);
  return wide;
}

function link(schema) {
  const name = schema.$ref?.replace(REF, "");
  return name ? Object.assign(element("a", name), { href: `#${name}` }) : kind(schema);
}

function kind(schema) {
  if (schema.$ref) return link(schema);
  if (schema.anyOf) {
    const parts = schema.anyOf.map(kind).flatMap((part) => [" or ", part]);
    return element("span", "", ...parts.slice(1));
  }
  if (schema.enum) return schema.enum.join(", ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return element("span", "", "list of ", kind(schema.items ?? {}));
  const limits = [schema.minimum ?? schema.exclusiveMinimum, schema.maximum ?? schema.exclusiveMaximum];
  const [low, high] = limits.map((limit) => limit ?? "");
  return (schema.format === "binary" ? "file" : schema.type ?? "any value") + (low === "" && high === "" ? "" : `, ${low} to ${high}`);
}

async function draw() {
  const { paths, webhooks, components } = await (await fetch("/openapi.json")).json();
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    METHODS.filter((method) => methods[method]).map((method) => operation(method, path, methods[method])),
  );
  $("operations").replaceChildren(...operations);
  const messages = Object.values(webhooks).map(({ post }) => operation("post", "webhook_url", post));
  $("webhooks").replaceChildren(...messages);
  const shapes = Object.entries(components.schemas).filter(([, schema]) => schema.properties);
  $("shapes").replaceChildren(...shapes.map(([name, schema]) => shape(name, schema)));
  document.body.dataset.ready = "yes";
}

draw();
