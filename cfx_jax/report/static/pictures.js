"use strict";
// Elements of the page, and pictures cropped from the file of an example.

/** Makes an element; strings are added as text, so that names of files and classes are never parsed as HTML. */
cfx.make = (tag, properties = {}, ...children) => {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== undefined));
  return element;
};

cfx.svg = (tag, attributes = {}, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

cfx.badge = (status) =>
  cfx.make(
    `span.badge.${status === "ok" ? "good" : "bad"}`,
    { title: status === "absent" ? "not in this run, or not computed there yet" : undefined },
    `${status === "ok" ? "✓" : "!"} ${status.replaceAll("_", " ")}`,
  );

/** One picture of an example. */
cfx.tile = (model, run, n, kind, alt, layer = "") => {
  const { tiles, geometry } = model.runs[run];
  const [height, width, pitch, before] = geometry;
  const index = model.at(run, "index", n);
  const tile = cfx.make(
    `span.tile${layer}`,
    {},
    cfx.make("img", {
      src: `images/${run}/${Math.floor(index / 1000)}/${index}.webp`,
      alt,
      decoding: "async",
      onerror: () => tile.replaceChildren(cfx.make("span.none", {}, "picture cannot be loaded")),
    }),
  );
  tile.style.setProperty("--tiles", tiles.length);
  tile.style.setProperty("--at", tiles.indexOf(kind));
  tile.style.setProperty("--pitch", pitch / width);
  tile.style.setProperty("--before", before / width);
  tile.style.aspectRatio = `${width} / ${height}`;
  return tile;
};

/** A saliency map over its grey photograph, if there is one, or the reason why there is no map. */
cfx.saliency = (model, result, n, alt) => {
  const run = model.runs[result.run];
  if (!model.hasMask(result, n)) {
    const isDrawn = model.hasPicture(result.run, n);
    const status = model.status(result, n);
    const failed = ["unreadable", "absent", "non_finite", "no_alternative"].includes(status);
    const why = isDrawn || failed ? status.replaceAll("_", " ") : "no picture";
    return cfx.make("span.none", {}, why);
  }
  const map = cfx.tile(model, result.run, n, `${result.objective}-saliency`, alt, run.has_photos ? ".map" : "");
  const layers = cfx.make("span.layers");
  if (run.has_photos) layers.append(cfx.tile(model, result.run, n, "original", "", ".grey"));
  layers.append(map);
  return layers;
};
