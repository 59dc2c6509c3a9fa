// Use the types that openapi-typescript makes of the node's OpenAPI document; print what it answers as JSON.
import createClient from "openapi-fetch";
import type { components, paths } from "./voxelnode.js";

declare const process: { argv: string[] };

type Problem = components["schemas"]["Problem"];

const [url, token, study] = process.argv.slice(2) as [string, string, string];
const headers = { Authorization: `Bearer ${token}` };
const client = createClient<paths>({ baseUrl: url, headers });

const one = await client.GET("/api/v1/studies/{study_instance_uid}", { params: { path: { study_instance_uid: study } } });
const patient: string | null | undefined = one.data?.patient_name;

const query = { study_instance_uid: study, format: "nifti", kind: "volume" };
const listed = await client.GET("/api/v1/volumes", { params: { query } });
const volume = listed.data!.items[0]!;
const downloaded = await client.GET("/api/v1/volumes/{id}/file", {
  params: { path: { id: volume.id } },
  parseAs: "arrayBuffer",
});
const bytes = new Uint8Array(downloaded.data!);

const absent = await client.GET("/api/v1/studies/{study_instance_uid}", { params: { path: { study_instance_uid: "9.9" } } });
const missing: Problem = absent.error!;
const forbidden = await client.DELETE("/api/v1/studies/{study_instance_uid}", {
  params: { path: { study_instance_uid: study } },
});
const refused: Problem = forbidden.error!;

// @ts-expect-error  a misspelt filter does not compile
const misspelt = await client.GET("/api/v1/volumes", { params: { query: { fromat: "nifti" } } });

console.log(
  JSON.stringify({
    patient,
    volume: volume.sha256,
    downloaded: Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""),
    missing: [missing.type, missing.status],
    refused: refused.type,
    misspelt: misspelt.response.status,
  }),
);
