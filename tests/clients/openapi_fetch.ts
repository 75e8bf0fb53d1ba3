// A closed form and a job by the types of openapi-typescript; the argument is the address of the server.

import createClient from "openapi-fetch";

import type { components, paths } from "./schema";

type Json = "application/json" | "application/problem+json";
type JobRequest = components["schemas"]["JobRequest"];

// One for answers in JSON, which is what comes without an Accept, and one for everything else.
const client = createClient<paths, Json>({ baseUrl: process.argv[2] });
const files = createClient<paths>({ baseUrl: process.argv[2] });
const model = { kind: "quadratic" as const, matrix: [[4, 4], [4, 16]] };
const job: JobRequest = {
  kind: "spectrum",
  model: { kind: "mlp", widths: [64, 4, 10] },
  data: { kind: "digits", num_samples: 32 },
  loss: "cross-entropy",
  method: { kind: "lanczos", num_steps: 5, num_probes: 2 },
};
// @ts-expect-error num_steps is none of the fields of this method
const mistaken: JobRequest = { ...job, method: { kind: "exact", num_steps: 5 } };

async function start(bytes: Blob | undefined): Promise<number[]> {
  return [...new Uint8Array(await bytes!.arrayBuffer()).subarray(0, 4)];
}

async function main() {
  const { data: spectrum } = await client.POST("/v1/closed-form", { body: { model } });
  const picture = await files.POST("/v1/closed-form", {
    body: { model },
    params: { header: { accept: "image/png" } },
    parseAs: "blob",
  });
  const refused = await client.POST("/v1/jobs", { body: mistaken });

  const header = { prefer: "wait=60" };
  const { data: submitted } = await client.POST("/v1/jobs", { body: job, params: { header } });
  const path = { job_id: submitted!.id };
  const { data: result } = await client.GET("/v1/jobs/{job_id}/result", { params: { path } });
  if (result?.kind !== "spectrum" || result.method !== "lanczos") throw new Error("another kind of result");
  const npz = await files.GET("/v1/jobs/{job_id}/result.npz", { params: { path }, parseAs: "blob" });
  const png = await files.GET("/v1/jobs/{job_id}/result.png", { params: { path }, parseAs: "blob" });
  const { data: svg } = await files.GET("/v1/jobs/{job_id}/result.svg", { params: { path }, parseAs: "text" });

  const found = {
    sharpness: spectrum?.sharpness,
    picture: await start(picture.data),
    refused: refused.error?.errors?.map((error) => error.loc),
    state: submitted?.state,
    largest: result.largest.value,
    points: result.density.grid.length,
    npz: await start(npz.data),
    png: await start(png.data),
    svg: svg?.slice(0, 5),
  };
  console.log(JSON.stringify(found));
}

void main();
