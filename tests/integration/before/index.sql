BEGIN TRANSACTION;
CREATE TABLE about (
	"key" VARCHAR(32) NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_about PRIMARY KEY ("key")
);
INSERT INTO "about" VALUES('closed','no');
INSERT INTO "about" VALUES('applied/7deffc64a83676c1ffebde7de5e2c731','7deffc64a83676c1ffebde7de5e2c731:10');
INSERT INTO "about" VALUES('ledger','4321b5a213a74ca39978c70f068db60d:10');
INSERT INTO "about" VALUES('swept_folder','00000000');
CREATE TABLE accounts (
	id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	role VARCHAR(8) NOT NULL, 
	password_hash VARCHAR(200), 
	created_at DATETIME NOT NULL, 
	totp_secret VARCHAR(64), 
	totp_step INTEGER, 
	groups JSON, 
	CONSTRAINT pk_accounts PRIMARY KEY (id), 
	CONSTRAINT ck_accounts_role CHECK (role IN ('read', 'write', 'admin')), 
	CONSTRAINT uq_accounts_name UNIQUE (name)
);
INSERT INTO "accounts" VALUES(1,'ann','admin','$argon2$','2026-11-26 10:09:41.984583',NULL,NULL,NULL);
INSERT INTO "accounts" VALUES(2,'bob','read','$argon2$','2026-11-26 10:09:42.028069',NULL,NULL,NULL);
CREATE TABLE added_hooks (
	name VARCHAR(64) NOT NULL, 
	settings JSON NOT NULL, 
	changed_by VARCHAR(64) NOT NULL, 
	changed_at DATETIME NOT NULL, 
	secret VARCHAR(4000), 
	CONSTRAINT pk_added_hooks PRIMARY KEY (name)
);
INSERT INTO "added_hooks" VALUES('1','{"url": "https://example.org/hook"}','1','2026-11-26 09:00:00.000000','1');
CREATE TABLE added_peers (
	name VARCHAR(64) NOT NULL, 
	settings JSON NOT NULL, 
	changed_by VARCHAR(64) NOT NULL, 
	changed_at DATETIME NOT NULL, 
	secret VARCHAR(4000), 
	CONSTRAINT pk_added_peers PRIMARY KEY (name)
);
INSERT INTO "added_peers" VALUES('1','{"ae_title": "CT1"}','1','2026-11-26 09:00:00.000000','1');
CREATE TABLE added_retention (
	name VARCHAR(64) NOT NULL, 
	settings JSON NOT NULL, 
	changed_by VARCHAR(64) NOT NULL, 
	changed_at DATETIME NOT NULL, 
	secret VARCHAR(4000), 
	CONSTRAINT pk_added_retention PRIMARY KEY (name)
);
INSERT INTO "added_retention" VALUES('','{"rules": {"days": 3650}, "beside": {}, "confirmed": 0}','1','2026-11-26 09:00:00.000000','1');
CREATE TABLE added_routes (
	name VARCHAR(64) NOT NULL, 
	settings JSON NOT NULL, 
	changed_by VARCHAR(64) NOT NULL, 
	changed_at DATETIME NOT NULL, 
	secret VARCHAR(4000), 
	CONSTRAINT pk_added_routes PRIMARY KEY (name)
);
INSERT INTO "added_routes" VALUES('1','{"to": ["PACS"]}','1','2026-11-26 09:00:00.000000','1');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE audit_lines (
	host VARCHAR(63) NOT NULL, 
	number INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	line TEXT NOT NULL, 
	CONSTRAINT pk_audit_lines PRIMARY KEY (host, number)
);
CREATE TABLE comments (
	id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	comment TEXT NOT NULL, 
	written_by VARCHAR(64) NOT NULL, 
	written_at DATETIME NOT NULL, 
	CONSTRAINT pk_comments PRIMARY KEY (id)
);
INSERT INTO "comments" VALUES(1,'1','1','1','1','2026-11-26 09:00:00.000000');
CREATE TABLE conflicts (
	id INTEGER NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	study_instance_uid VARCHAR(64), 
	series_instance_uid VARCHAR(64), 
	sop_instance_uid VARCHAR(64), 
	detail TEXT NOT NULL, 
	"key" VARCHAR(200), 
	sha256 VARCHAR(64), 
	host VARCHAR(63), 
	calling_ae_title VARCHAR(16), 
	found_at DATETIME NOT NULL, 
	decision VARCHAR(16), 
	decided_at DATETIME, 
	decided_by VARCHAR(64), 
	CONSTRAINT pk_conflicts PRIMARY KEY (id)
);
INSERT INTO "conflicts" VALUES(1,'instance-bytes','1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295','1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686','1.2.826.0.1.3680043.8.498.53941283556800038696825923429822041602','the instance came again with other bytes; the first is current','quarantine/126c6ab2b64147a592f877f053732513.dcm','3b3f9e901caceb395c524926afc1e520b0a15497e2a1ec2f0691daf34c5859f3',NULL,'MODALITY','2026-11-26 10:09:38.796952',NULL,NULL,NULL);
CREATE TABLE conversions (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	revision INTEGER NOT NULL, 
	superseded BOOLEAN NOT NULL, 
	input_sha256 VARCHAR(64), 
	files_removed_at DATETIME, 
	converter VARCHAR(64) NOT NULL, 
	options JSON NOT NULL, 
	instances INTEGER NOT NULL, 
	seconds FLOAT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_conversions PRIMARY KEY (id), 
	CONSTRAINT uq_conversions_series_id_revision UNIQUE (series_id, revision), 
	CONSTRAINT fk_conversions_series_id_series FOREIGN KEY(series_id) REFERENCES series (id)
);
INSERT INTO "conversions" VALUES(1,2,1,0,'151035ac18254d878ec7addd50a9485f5b8a7946db70fa673e0f327eb9ffeaac',NULL,'voxelnode 0.1.0','{"formats": ["nifti", "mhd"], "compress": true, "nifti_extension": false, "thumbnails": true, "thumbnail_pixels": 256, "previews": false, "projections": false, "montages": false, "slices": false, "projected_planes": [], "mask_above": null, "mask_below": null, "body_masks": false, "body_contours": false, "masked_volumes": false, "body_threshold_hu": -300.0, "suv": false, "suv_types": ["BW"], "repair": true, "split_times": false}',2,7.66899547999855712987e-01,'2026-11-26 09:00:00.000000');
INSERT INTO "conversions" VALUES(4,5,1,0,'ae4d2e29bc6c1df6e1aa0db748c204c45be8097549ec86b175b57d3d8bbf19a5',NULL,'voxelnode 0.1.0','{"formats": ["nifti", "mhd"], "compress": true, "nifti_extension": false, "thumbnails": true, "thumbnail_pixels": 256, "previews": false, "projections": false, "montages": false, "slices": false, "projected_planes": [], "mask_above": null, "mask_below": null, "body_masks": false, "body_contours": false, "masked_volumes": false, "body_threshold_hu": -300.0, "suv": false, "suv_types": ["BW"], "repair": true, "split_times": false}',1,9.79925000137882307171e-04,'2026-11-26 09:00:00.000000');
INSERT INTO "conversions" VALUES(5,1,1,1,'417adfeef6ab124c875e9f3e14216b5c37fa928a1e43c467e2b4c139f8d2c17f',NULL,'voxelnode 0.1.0','{"formats": ["nifti", "mhd"], "compress": true, "nifti_extension": false, "thumbnails": true, "thumbnail_pixels": 256, "previews": false, "projections": false, "montages": false, "slices": false, "projected_planes": [], "mask_above": null, "mask_below": null, "body_masks": false, "body_contours": false, "masked_volumes": false, "body_threshold_hu": -300.0, "suv": false, "suv_types": ["BW"], "repair": true, "split_times": false}',3,4.63629350001610873732e-02,'2026-11-26 09:00:00.000000');
INSERT INTO "conversions" VALUES(6,6,1,0,'f13bb802a7424a5ddb3aa6fe64f17d3e2bc9f29ed23865de22fbc581152f8d55',NULL,'voxelnode 0.1.0','{"formats": ["nifti", "mhd"], "compress": true, "nifti_extension": false, "thumbnails": true, "thumbnail_pixels": 256, "previews": false, "projections": false, "montages": false, "slices": false, "projected_planes": [], "mask_above": null, "mask_below": null, "body_masks": false, "body_contours": false, "masked_volumes": false, "body_threshold_hu": -300.0, "suv": false, "suv_types": ["BW"], "repair": true, "split_times": false}',1,9.00860500000817410182e-02,'2026-11-26 09:00:00.000000');
INSERT INTO "conversions" VALUES(7,1,2,0,'417adfeef6ab124c875e9f3e14216b5c37fa928a1e43c467e2b4c139f8d2c17f',NULL,'voxelnode 0.1.0','{"formats": ["nifti", "mhd"], "compress": true, "nifti_extension": false, "thumbnails": true, "thumbnail_pixels": 256, "previews": false, "projections": false, "montages": false, "slices": false, "projected_planes": [], "mask_above": null, "mask_below": null, "body_masks": false, "body_contours": false, "masked_volumes": false, "body_threshold_hu": -300.0, "suv": false, "suv_types": ["BW"], "repair": true, "split_times": false}',3,0.0447288089999347,'2026-11-26 09:00:00.000000');
CREATE TABLE copied_instances (
	copied_series_id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	copy_sop_instance_uid VARCHAR(64) NOT NULL, 
	reason VARCHAR(32), 
	detail TEXT, 
	CONSTRAINT pk_copied_instances PRIMARY KEY (copied_series_id, sop_instance_uid), 
	CONSTRAINT fk_copied_instances_copied_series_id_copied_series FOREIGN KEY(copied_series_id) REFERENCES copied_series (id) ON DELETE CASCADE
);
INSERT INTO "copied_instances" VALUES(1,'1','1','1','1','1');
CREATE TABLE copied_series (
	id INTEGER NOT NULL, 
	project_id INTEGER NOT NULL, 
	project VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	copy_study_instance_uid VARCHAR(64) NOT NULL, 
	copy_series_instance_uid VARCHAR(64) NOT NULL, 
	receptions INTEGER, 
	revision INTEGER, 
	CONSTRAINT pk_copied_series PRIMARY KEY (id), 
	CONSTRAINT uq_copied_series_project_id_study_instance_uid_series_instance_uid UNIQUE (project_id, study_instance_uid, series_instance_uid)
);
INSERT INTO "copied_series" VALUES(1,1,'1','1','1','1','1',1,1);
CREATE TABLE events (
	id INTEGER NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	study_instance_uid VARCHAR(64), 
	series_instance_uid VARCHAR(64), 
	sop_instance_uid VARCHAR(64), 
	revision INTEGER, 
	detail TEXT, 
	happened_at DATETIME NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (id)
);
INSERT INTO "events" VALUES(1,'instance-conflict','1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295','1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686','1.2.826.0.1.3680043.8.498.53941283556800038696825923429822041602',NULL,'the instance came again with other bytes; the first is current','2026-11-26 10:09:38.796952');
INSERT INTO "events" VALUES(2,'series-quiet','1.2.826.0.1.3680043.8.498.98649341358700149810522820981979499426','1.2.826.0.1.3680043.8.498.8587462832560431780813789672970707275',NULL,1,'2 instances','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(3,'series-converted','1.2.826.0.1.3680043.8.498.98649341358700149810522820981979499426','1.2.826.0.1.3680043.8.498.8587462832560431780813789672970707275',NULL,1,'2 instances without a gap; the sender did not announce a count','2026-11-26 09:00:00.000000');
INSERT INTO "events" VALUES(4,'series-quiet','1.2.826.0.1.3680043.8.498.76977462089439211750628011030040033515','1.2.826.0.1.3680043.8.498.70750716526570116246106973439403270602',NULL,1,'1 instance','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(5,'series-converted','1.2.826.0.1.3680043.8.498.76977462089439211750628011030040033515','1.2.826.0.1.3680043.8.498.70750716526570116246106973439403270602',NULL,1,'1 instance received; the sender did not announce a count','2026-11-26 09:00:00.000000');
INSERT INTO "events" VALUES(6,'series-quiet','1.2.826.0.1.3680043.8.498.92433762590131531909835451140822126885','1.2.826.0.1.3680043.8.498.78500174756817233779432927957246849360',NULL,1,'1 instance','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(7,'series-converted','1.2.826.0.1.3680043.8.498.92433762590131531909835451140822126885','1.2.826.0.1.3680043.8.498.78500174756817233779432927957246849360',NULL,1,'1 instance received; the sender did not announce a count','2026-11-26 09:00:00.000000');
INSERT INTO "events" VALUES(8,'series-quiet','1.2.826.0.1.3680043.8.498.31414036070747266909104979708427060187','1.2.826.0.1.3680043.8.498.43672423583735699505751906721677688916',NULL,1,'1 instance','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(9,'series-refused','1.2.826.0.1.3680043.8.498.31414036070747266909104979708427060187','1.2.826.0.1.3680043.8.498.43672423583735699505751906721677688916',NULL,1,'incomplete: CT Image Storage without Pixel Data (7FE0,0010)','2026-11-26 09:00:00.000000');
INSERT INTO "events" VALUES(10,'series-quiet','1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295','1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686',NULL,1,'3 instances','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(11,'series-converted','1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295','1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686',NULL,1,'3 instances without a gap; the sender did not announce a count','2026-11-26 09:00:00.000000');
INSERT INTO "events" VALUES(12,'series-quiet','1.2.826.0.1.3680043.8.498.56809458295153437665181693906313861977','1.2.826.0.1.3680043.8.498.32516764877645347795044054171531438476',NULL,1,'1 instance','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(13,'series-converted','1.2.826.0.1.3680043.8.498.56809458295153437665181693906313861977','1.2.826.0.1.3680043.8.498.32516764877645347795044054171531438476',NULL,1,'1 instance received; the sender did not announce a count','2026-11-26 09:00:00.000000');
INSERT INTO "events" VALUES(14,'series-reopened','1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295','1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686',NULL,NULL,'reconversion requested','2026-11-26 09:00:00.000000');
INSERT INTO "events" VALUES(15,'series-quiet','1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295','1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686',NULL,2,'3 instances','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(16,'volume-superseded','1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295','1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686',NULL,1,'replaced by revision 2','2026-11-26 09:00:00.000000');
INSERT INTO "events" VALUES(17,'series-converted','1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295','1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686',NULL,2,'3 instances without a gap; the sender did not announce a count','2026-11-26 09:00:00.000000');
INSERT INTO "events" VALUES(18,'patient-merged','1.2.826.0.1.3680043.8.498.56809458295153437665181693906313861977',NULL,NULL,NULL,'patient #6 is now #2','2026-11-26 10:09:41.860677');
INSERT INTO "events" VALUES(19,'deleted','1.2.826.0.1.3680043.8.498.76977462089439211750628011030040033515',NULL,NULL,NULL,'study, by command','2026-11-26 10:09:42.257899');
INSERT INTO "events" VALUES(20,'deleted','1.2.826.0.1.3680043.8.498.92433762590131531909835451140822126885',NULL,NULL,NULL,'study, by command','2026-11-26 10:09:42.804489');
CREATE TABLE exclusions (
	id INTEGER NOT NULL, 
	conversion_id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	frames INTEGER NOT NULL, 
	reason VARCHAR(32) NOT NULL, 
	detail TEXT NOT NULL, 
	CONSTRAINT pk_exclusions PRIMARY KEY (id), 
	CONSTRAINT fk_exclusions_conversion_id_conversions FOREIGN KEY(conversion_id) REFERENCES conversions (id)
);
CREATE TABLE failures (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	revision INTEGER NOT NULL, 
	stack INTEGER, 
	reason VARCHAR(32) NOT NULL, 
	detail TEXT NOT NULL, 
	failed_at DATETIME NOT NULL, 
	CONSTRAINT pk_failures PRIMARY KEY (id), 
	CONSTRAINT fk_failures_series_id_series FOREIGN KEY(series_id) REFERENCES series (id)
);
INSERT INTO "failures" VALUES(1,5,1,NULL,'incomplete','CT Image Storage without Pixel Data (7FE0,0010)','2026-11-26 09:00:00.000000');
CREATE TABLE host_removals (
	host VARCHAR(63) NOT NULL, 
	path VARCHAR(200) NOT NULL, 
	ordered_at DATETIME NOT NULL, 
	CONSTRAINT pk_host_removals PRIMARY KEY (host, path)
);
CREATE TABLE hosts (
	name VARCHAR(63) NOT NULL, 
	roles JSON NOT NULL, 
	version VARCHAR(32) NOT NULL, 
	subscribers JSON NOT NULL, 
	is_behind BOOLEAN DEFAULT 0 NOT NULL, 
	not_ready JSON DEFAULT '{}' NOT NULL, 
	started_at DATETIME NOT NULL, 
	seen_at DATETIME NOT NULL, 
	lease_until DATETIME, 
	drain VARCHAR(8), 
	left_behind INTEGER, 
	clock_ahead_seconds FLOAT DEFAULT '0' NOT NULL, 
	configuration JSON DEFAULT '{}' NOT NULL, 
	problems JSON DEFAULT '{}' NOT NULL, 
	CONSTRAINT pk_hosts PRIMARY KEY (name)
);
CREATE TABLE image_documents (
	image_id INTEGER NOT NULL, 
	document TEXT NOT NULL, 
	CONSTRAINT pk_image_documents PRIMARY KEY (image_id), 
	CONSTRAINT fk_image_documents_image_id_images FOREIGN KEY(image_id) REFERENCES images (id) ON DELETE CASCADE ON UPDATE CASCADE
);
INSERT INTO "image_documents" VALUES(1,'{}');
INSERT INTO "image_documents" VALUES(2,'{"ImagePositionPatient":"-50\\-40\\32.5"}');
INSERT INTO "image_documents" VALUES(3,'{"ImagePositionPatient":"-50\\-40\\35"}');
INSERT INTO "image_documents" VALUES(4,'{}');
INSERT INTO "image_documents" VALUES(5,'{"ImagePositionPatient":"-50\\-40\\32.5"}');
INSERT INTO "image_documents" VALUES(8,'{}');
INSERT INTO "image_documents" VALUES(9,'{}');
CREATE TABLE images (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	transfer_syntax_uid VARCHAR(64) NOT NULL, 
	instance_number INTEGER, 
	number_of_frames INTEGER, 
	rows INTEGER, 
	columns INTEGER, 
	acquisition_number INTEGER, 
	content_date DATE, 
	content_time TIME, 
	images_in_acquisition INTEGER, 
	number_of_temporal_positions INTEGER, 
	number_of_slices INTEGER, 
	number_of_time_slices INTEGER, 
	number_of_series_related_instances INTEGER, 
	timezone_offset_from_utc VARCHAR(16), 
	file_missing BOOLEAN DEFAULT 0 NOT NULL, 
	bytes BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	data_set_offset INTEGER NOT NULL, 
	"key" VARCHAR(200) NOT NULL, 
	place VARCHAR(8), 
	spool_host VARCHAR(63), 
	source VARCHAR(16) NOT NULL, 
	calling_ae_title VARCHAR(16), 
	called_ae_title VARCHAR(16), 
	peer VARCHAR(64), 
	received_at DATETIME NOT NULL, 
	CONSTRAINT pk_images PRIMARY KEY (id), 
	CONSTRAINT fk_images_series_id_series FOREIGN KEY(series_id) REFERENCES series (id), 
	CONSTRAINT uq_images_sop_instance_uid UNIQUE (sop_instance_uid), 
	CONSTRAINT uq_images_key UNIQUE ("key")
);
INSERT INTO "images" VALUES(1,1,'1.2.826.0.1.3680043.8.498.53941283556800038696825923429822041602','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',1,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1102,'af40d7489b4d752f82102157deb493c1a5514613df5467811656163dc5a6cbf2',380,'objects/00000000/6ecdf3add84a4b7c93c5aa39da1d137b.dcm',NULL,NULL,'dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-26 10:09:38.275111');
INSERT INTO "images" VALUES(2,1,'1.2.826.0.1.3680043.8.498.80590598032242308775590714640029888311','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',2,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1104,'058b7f682a5e7a0671c1e9b6c522c83bf6557bc682046ce11fb308862c8e3026',380,'objects/00000000/e3ce0b428b844a029a64fcac64925bd5.dcm',NULL,NULL,'dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-26 10:09:38.406155');
INSERT INTO "images" VALUES(3,1,'1.2.826.0.1.3680043.8.498.57249363964278005577264837506160628650','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',3,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1102,'0b3b526303482784f76cafbd9d268d55bfd1f14eb6463e45735b9a6a5b65426a',380,'objects/00000000/49d91e98ba334b7481fb3e52c0970606.dcm',NULL,NULL,'dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-26 10:09:38.426174');
INSERT INTO "images" VALUES(4,2,'1.2.826.0.1.3680043.8.498.78397094621433839856245653119360204981','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',1,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1098,'dbd41e2b77713e2e35dd7b157ab94a1fcfe3c8266cbade9221307dad4423879e',380,'objects/00000000/ad80b50e4fcc4344900e5c8d80b6a2d1.dcm',NULL,NULL,'dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-26 10:09:38.446144');
INSERT INTO "images" VALUES(5,2,'1.2.826.0.1.3680043.8.498.56329210389929480193248284027548927092','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',2,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1100,'b24f7d3cdeeac80557ad20efed13c992d56f5e73c871d3ffbf4cfa03d0c19725',380,'objects/00000000/f0c04db309ab4a5880a6a3861cb1f6f2.dcm',NULL,NULL,'dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-26 10:09:38.494335');
INSERT INTO "images" VALUES(8,5,'1.2.826.0.1.3680043.8.498.91643741753775028483761153110555287472','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',1,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,708,'18a6ec9be4a8df85d84e4dccc7a120931130aacd2b305cb033bf31998106005c',380,'objects/00000000/a85bb46274274c8696b6c3c3cdce3b46.dcm',NULL,NULL,'dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-26 10:09:38.759789');
INSERT INTO "images" VALUES(9,6,'1.2.826.0.1.3680043.8.498.99748734784595827562103876247915576757','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',1,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1098,'f614455f930cb1b28d719d23e07e968cb2a049b8102d8be7fb8860f1cee61449',380,'objects/00000000/3c135cbbe1de4fac97235942807cf4a4.dcm',NULL,NULL,'dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-26 10:09:38.896407');
CREATE TABLE kept_searches (
	id INTEGER NOT NULL, 
	account VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	conditions JSON NOT NULL, 
	CONSTRAINT pk_kept_searches PRIMARY KEY (id), 
	CONSTRAINT uq_kept_searches_account_name UNIQUE (account, name)
);
INSERT INTO "kept_searches" VALUES(1,'ann','1','{"modality": "CT"}');
CREATE TABLE key_challenges (
	session_id INTEGER NOT NULL, 
	purpose VARCHAR(8) NOT NULL, 
	challenge VARCHAR(64) NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_key_challenges PRIMARY KEY (session_id), 
	CONSTRAINT fk_key_challenges_session_id_web_sessions FOREIGN KEY(session_id) REFERENCES web_sessions (id) ON DELETE CASCADE
);
CREATE TABLE keyed_requests (
	id INTEGER NOT NULL, 
	account VARCHAR(64) NOT NULL, 
	"key" VARCHAR(255) NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	answer TEXT, 
	began_at DATETIME NOT NULL, 
	CONSTRAINT pk_keyed_requests PRIMARY KEY (id), 
	CONSTRAINT uq_keyed_requests_account_key UNIQUE (account, "key")
);
INSERT INTO "keyed_requests" VALUES(1,'ann','one','0000000000000000000000000000000000000000000000000000000000000000','{}','2026-11-26 09:00:00.000000');
CREATE TABLE labels (
	id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	label VARCHAR(64) NOT NULL, 
	given_by VARCHAR(64) NOT NULL, 
	given_at DATETIME NOT NULL, 
	CONSTRAINT pk_labels PRIMARY KEY (id), 
	CONSTRAINT uq_labels_study_instance_uid_series_instance_uid_label UNIQUE (study_instance_uid, series_instance_uid, label)
);
INSERT INTO "labels" VALUES(1,'1','1','1','1','2026-11-26 09:00:00.000000');
CREATE TABLE leases (
	name VARCHAR(160) NOT NULL, 
	host VARCHAR(63) NOT NULL, 
	CONSTRAINT pk_leases PRIMARY KEY (name)
);
CREATE TABLE limited_accounts (
	account VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_limited_accounts PRIMARY KEY (account)
);
INSERT INTO "limited_accounts" VALUES('bob');
CREATE TABLE lost_instances (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	peer VARCHAR(64) NOT NULL, 
	received_at DATETIME NOT NULL, 
	noticed_at DATETIME NOT NULL, 
	CONSTRAINT pk_lost_instances PRIMARY KEY (id), 
	CONSTRAINT uq_lost_instances_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "lost_instances" VALUES(1,'1','1','1','1','1','1','1','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000');
CREATE TABLE object_removals (
	"key" VARCHAR(200) NOT NULL, 
	ordered_at DATETIME NOT NULL, 
	CONSTRAINT pk_object_removals PRIMARY KEY ("key")
);
CREATE TABLE patients (
	id INTEGER NOT NULL, 
	identity VARCHAR(200) NOT NULL, 
	patient_id VARCHAR(64), 
	issuer_of_patient_id VARCHAR(64), 
	patient_name VARCHAR(324), 
	patient_name_alphabetic VARCHAR(324), 
	patient_name_ideographic VARCHAR(324), 
	patient_name_phonetic VARCHAR(324), 
	patient_birth_date DATE, 
	patient_birth_time TIME, 
	patient_sex VARCHAR(16), 
	merged_into INTEGER, 
	merged_first_into INTEGER, 
	CONSTRAINT pk_patients PRIMARY KEY (id), 
	CONSTRAINT fk_patients_merged_into_patients FOREIGN KEY(merged_into) REFERENCES patients (id)
);
INSERT INTO "patients" VALUES(1,'\TEST-1','TEST-1',NULL,'Voxel^Test','voxel^test',NULL,NULL,NULL,NULL,'O',NULL,NULL);
INSERT INTO "patients" VALUES(2,'\B','B',NULL,'Voxel^Test','voxel^test',NULL,NULL,NULL,NULL,'O',NULL,NULL);
INSERT INTO "patients" VALUES(5,'\REFUSED','REFUSED',NULL,'Voxel^Test','voxel^test',NULL,NULL,NULL,NULL,'O',NULL,NULL);
INSERT INTO "patients" VALUES(6,'\A','A',NULL,'Voxel^Test','voxel^test',NULL,NULL,NULL,NULL,'O',2,NULL);
CREATE TABLE performed_series (
	id INTEGER NOT NULL, 
	performed_step_id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64), 
	series_instance_uid VARCHAR(64) NOT NULL, 
	sop_instance_uids JSON NOT NULL, 
	CONSTRAINT pk_performed_series PRIMARY KEY (id), 
	CONSTRAINT fk_performed_series_performed_step_id_performed_steps FOREIGN KEY(performed_step_id) REFERENCES performed_steps (id) ON DELETE CASCADE
);
INSERT INTO "performed_series" VALUES(1,1,'1','1','[]');
CREATE TABLE performed_steps (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	study_instance_uid VARCHAR(64), 
	patient_id VARCHAR(64), 
	accession_number VARCHAR(16), 
	performed_procedure_step_id VARCHAR(16), 
	modality VARCHAR(16), 
	station_ae_title VARCHAR(16), 
	series INTEGER NOT NULL, 
	instances INTEGER NOT NULL, 
	attributes JSON NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	created_at DATETIME NOT NULL, 
	changed_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	CONSTRAINT pk_performed_steps PRIMARY KEY (id), 
	CONSTRAINT ck_performed_steps_state CHECK (state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')), 
	CONSTRAINT uq_performed_steps_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "performed_steps" VALUES(1,'1','COMPLETED','1','1','1','1','1','1',1,1,'{}','1','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000');
CREATE TABLE project_contents (
	project_id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	added_by VARCHAR(64) NOT NULL, 
	added_at DATETIME NOT NULL, 
	CONSTRAINT pk_project_contents PRIMARY KEY (project_id, study_instance_uid, series_instance_uid), 
	CONSTRAINT fk_project_contents_project_id_projects FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);
INSERT INTO "project_contents" VALUES(1,'1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295','','test','2026-11-26 10:09:43.051021');
CREATE TABLE project_members (
	project_id INTEGER NOT NULL, 
	account VARCHAR(64) NOT NULL, 
	role VARCHAR(8) NOT NULL, 
	CONSTRAINT pk_project_members PRIMARY KEY (project_id, account), 
	CONSTRAINT ck_project_members_role CHECK (role IN ('read', 'write', 'manage')), 
	CONSTRAINT fk_project_members_project_id_projects FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);
INSERT INTO "project_members" VALUES(1,'bob','read');
CREATE TABLE project_originals (
	series_id INTEGER NOT NULL, 
	project_id INTEGER NOT NULL, 
	is_by_rule BOOLEAN NOT NULL, 
	CONSTRAINT pk_project_originals PRIMARY KEY (series_id, project_id, is_by_rule), 
	CONSTRAINT fk_project_originals_series_id_series FOREIGN KEY(series_id) REFERENCES series (id) ON DELETE CASCADE, 
	CONSTRAINT fk_project_originals_project_id_projects FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);
CREATE TABLE project_series (
	series_id INTEGER NOT NULL, 
	project_id INTEGER NOT NULL, 
	is_by_rule BOOLEAN NOT NULL, 
	CONSTRAINT pk_project_series PRIMARY KEY (series_id, project_id, is_by_rule), 
	CONSTRAINT fk_project_series_series_id_series FOREIGN KEY(series_id) REFERENCES series (id) ON DELETE CASCADE, 
	CONSTRAINT fk_project_series_project_id_projects FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);
INSERT INTO "project_series" VALUES(1,1,0);
CREATE TABLE projects (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name VARCHAR(64) NOT NULL, 
	description VARCHAR(200) DEFAULT '' NOT NULL, 
	rule TEXT, 
	called_ae_title VARCHAR(16), 
	pseudonym_key VARCHAR(64), 
	deidentification JSON, 
	created_by VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT uq_projects_name UNIQUE (name)
);
INSERT INTO "projects" VALUES(1,'trial','',NULL,NULL,NULL,NULL,'test','2026-11-26 10:09:42.961531');
CREATE TABLE protocols (
	"key" VARCHAR(32) NOT NULL, 
	series JSON NOT NULL, 
	learnt_at DATETIME NOT NULL, 
	CONSTRAINT pk_protocols PRIMARY KEY ("key")
);
INSERT INTO "protocols" VALUES('1','[]','2026-11-26 09:00:00.000000');
CREATE TABLE recovery_codes (
	id INTEGER NOT NULL, 
	account_id INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_recovery_codes PRIMARY KEY (id), 
	CONSTRAINT fk_recovery_codes_account_id_accounts FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE, 
	CONSTRAINT uq_recovery_codes_sha256 UNIQUE (sha256)
);
INSERT INTO "recovery_codes" VALUES(1,1,'1');
CREATE TABLE rejections (
	id INTEGER NOT NULL, 
	what VARCHAR(16) NOT NULL, 
	rule VARCHAR(64) NOT NULL, 
	peer VARCHAR(64) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	called_ae_title VARCHAR(16) NOT NULL, 
	offered TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	remedy TEXT NOT NULL, 
	count INTEGER NOT NULL, 
	first_at DATETIME NOT NULL, 
	last_at DATETIME NOT NULL, 
	CONSTRAINT pk_rejections PRIMARY KEY (id)
);
INSERT INTO "rejections" VALUES(1,'1','1','1','1','1','1','1','1',1,'2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000');
CREATE TABLE results (
	id INTEGER NOT NULL, 
	job_id INTEGER NOT NULL, 
	file VARCHAR(100) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	source_series_instance_uid VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	segments JSON, 
	stored_at DATETIME, 
	CONSTRAINT pk_results PRIMARY KEY (id), 
	CONSTRAINT uq_results_job_id_file UNIQUE (job_id, file), 
	CONSTRAINT fk_results_job_id_work FOREIGN KEY(job_id) REFERENCES work (id) ON DELETE CASCADE, 
	CONSTRAINT uq_results_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "results" VALUES(1,1,'1','1','1','1','1','1','1','1',NULL,'2026-11-26 09:00:00.000000');
CREATE TABLE revision_files (
	id INTEGER NOT NULL, 
	conversion_id INTEGER NOT NULL, 
	"key" VARCHAR(400) NOT NULL, 
	bytes BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	place VARCHAR(8), 
	spool_host VARCHAR(63), 
	CONSTRAINT pk_revision_files PRIMARY KEY (id), 
	CONSTRAINT fk_revision_files_conversion_id_conversions FOREIGN KEY(conversion_id) REFERENCES conversions (id), 
	CONSTRAINT uq_revision_files_key UNIQUE ("key")
);
CREATE TABLE scheduled_steps (
	id INTEGER NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	source_key VARCHAR(300), 
	source_version VARCHAR(64), 
	patient_id VARCHAR(64), 
	patient_name VARCHAR(324), 
	accession_number VARCHAR(16), 
	study_instance_uid VARCHAR(64), 
	requested_procedure_id VARCHAR(16), 
	scheduled_procedure_step_id VARCHAR(16), 
	modality VARCHAR(16), 
	station_ae_title VARCHAR(16), 
	start_date DATE, 
	start_time TIME, 
	description VARCHAR(64), 
	attributes JSON NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	created_at DATETIME NOT NULL, 
	changed_at DATETIME NOT NULL, 
	CONSTRAINT pk_scheduled_steps PRIMARY KEY (id), 
	CONSTRAINT uq_scheduled_steps_source_source_key UNIQUE (source, source_key)
);
INSERT INTO "scheduled_steps" VALUES(1,'rest','1','1','1','1','1','1','1','1','1','1','2026-11-26','09:00:00.000000','1','{}','scheduled','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000');
CREATE TABLE security_keys (
	id INTEGER NOT NULL, 
	account_id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	rp_id VARCHAR(253) NOT NULL, 
	credential_id VARCHAR(1364) NOT NULL, 
	public_key TEXT NOT NULL, 
	sign_count BIGINT NOT NULL, 
	created_at DATETIME NOT NULL, 
	used_at DATETIME, 
	CONSTRAINT pk_security_keys PRIMARY KEY (id), 
	CONSTRAINT uq_security_keys_account_id_name UNIQUE (account_id, name), 
	CONSTRAINT fk_security_keys_account_id_accounts FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE, 
	CONSTRAINT uq_security_keys_credential_id UNIQUE (credential_id)
);
INSERT INTO "security_keys" VALUES(1,1,'1','1','1','1',1,'2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000');
CREATE TABLE senders (
	calling_ae_title VARCHAR(16) NOT NULL, 
	gaps JSON NOT NULL, 
	quiet_seconds FLOAT, 
	learnt_at DATETIME NOT NULL, 
	CONSTRAINT pk_senders PRIMARY KEY (calling_ae_title)
);
INSERT INTO "senders" VALUES('MODALITY','[0.048, 0.131, 0.131]',NULL,'2100-01-01 00:00:00.000000');
CREATE TABLE sent_instances (
	image_id INTEGER NOT NULL, 
	route VARCHAR(64) NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	sent_at DATETIME NOT NULL, 
	transaction_uid VARCHAR(64), 
	asked_at DATETIME, 
	asks INTEGER NOT NULL, 
	confirmed_at DATETIME, 
	CONSTRAINT pk_sent_instances PRIMARY KEY (image_id, route, destination), 
	CONSTRAINT ck_sent_instances_state CHECK (state IN ('sent', 'owed', 'asked', 'confirmed', 'lost')), 
	CONSTRAINT fk_sent_instances_image_id_images FOREIGN KEY(image_id) REFERENCES images (id) ON DELETE CASCADE
);
INSERT INTO "sent_instances" VALUES(2,'1','1','1','1','1','sent','2026-11-26 09:00:00.000000','1','2026-11-26 09:00:00.000000',1,'2026-11-26 09:00:00.000000');
CREATE TABLE series (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	modality VARCHAR(16), 
	series_number INTEGER, 
	series_description VARCHAR(64), 
	series_date DATE, 
	series_time TIME, 
	body_part_examined VARCHAR(16), 
	laterality VARCHAR(16), 
	protocol_name VARCHAR(64), 
	manufacturer VARCHAR(64), 
	manufacturer_model_name VARCHAR(64), 
	station_name VARCHAR(16), 
	frame_of_reference_uid VARCHAR(64), 
	performed_procedure_step_start_date DATE, 
	performed_procedure_step_start_time TIME, 
	timezone_offset_from_utc VARCHAR(16), 
	request_attributes JSON, 
	state VARCHAR(16) NOT NULL, 
	open_since DATETIME, 
	last_received_at DATETIME NOT NULL, 
	due_at DATETIME, 
	waits JSON, 
	receptions INTEGER NOT NULL, 
	revision INTEGER NOT NULL, 
	claim VARCHAR(32), 
	claimed_by VARCHAR(63), 
	claimed_receptions INTEGER, 
	attempts INTEGER NOT NULL, 
	conversion_begun_at DATETIME, 
	last_conversion JSON, 
	error TEXT, 
	reported JSON, 
	verdict VARCHAR(16), 
	verdict_rule VARCHAR(32), 
	verdict_reason TEXT, 
	expected_instances INTEGER, 
	expected_source VARCHAR(64), 
	missing_instances INTEGER, 
	missing_detail TEXT, 
	lacking JSON, 
	acknowledged_problem VARCHAR(64), 
	acknowledged_reason TEXT, 
	acknowledged_by VARCHAR(64), 
	acknowledged_at DATETIME, 
	copied_for INTEGER, 
	CONSTRAINT pk_series PRIMARY KEY (id), 
	CONSTRAINT uq_series_study_id_series_instance_uid UNIQUE (study_id, series_instance_uid), 
	CONSTRAINT ck_series_state CHECK (state IN ('receiving', 'converting', 'converted', 'refused', 'not-an-image', 'failed')), 
	CONSTRAINT fk_series_study_id_studies FOREIGN KEY(study_id) REFERENCES studies (id)
);
INSERT INTO "series" VALUES(1,1,'1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686','CT',1,NULL,NULL,NULL,NULL,NULL,NULL,'Example',NULL,NULL,'1.2.826.0.1.3680043.8.498.13415890292660378705834848428028153287',NULL,NULL,NULL,NULL,'converted',NULL,'2026-11-26 10:09:38.426174',NULL,NULL,3,2,NULL,NULL,NULL,0,NULL,'{"event": 17, "predecessor": 11, "kind": "series-converted", "begun_at": "2100-01-01T00:00:00+00:00", "ended_at": "2026-11-26T09:00:00+00:00", "revision": 2, "detail": "3 instances without a gap; the sender did not announce a count", "stands": ["series-converted", "3 instances without a gap; the sender did not announce a count"]}',NULL,NULL,'complete','geometry','3 instances without a gap; the sender did not announce a count',NULL,NULL,0,'',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "series" VALUES(2,2,'1.2.826.0.1.3680043.8.498.8587462832560431780813789672970707275','CT',1,NULL,NULL,NULL,NULL,NULL,NULL,'Example',NULL,NULL,'1.2.826.0.1.3680043.8.498.15043515540974919017514308898884713793',NULL,NULL,NULL,NULL,'converted',NULL,'2026-11-26 10:09:38.494335',NULL,NULL,2,1,NULL,NULL,NULL,0,NULL,'{"event": 3, "predecessor": 0, "kind": "series-converted", "begun_at": "2100-01-01T00:00:00+00:00", "ended_at": "2026-11-26T09:00:00+00:00", "revision": 1, "detail": "2 instances without a gap; the sender did not announce a count", "stands": ["series-converted", "2 instances without a gap; the sender did not announce a count"]}',NULL,NULL,'complete','geometry','2 instances without a gap; the sender did not announce a count',NULL,NULL,0,'',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "series" VALUES(5,5,'1.2.826.0.1.3680043.8.498.43672423583735699505751906721677688916','CT',1,NULL,NULL,NULL,NULL,NULL,NULL,'Example',NULL,NULL,'1.2.826.0.1.3680043.8.498.23768534035373778947739693477367708207',NULL,NULL,NULL,NULL,'refused',NULL,'2026-11-26 10:09:38.759789',NULL,NULL,1,1,NULL,NULL,NULL,0,NULL,'{"event": 9, "predecessor": 0, "kind": "series-refused", "begun_at": "2100-01-01T00:00:00+00:00", "ended_at": "2026-11-26T09:00:00+00:00", "revision": 1, "detail": "incomplete: CT Image Storage without Pixel Data (7FE0,0010)", "stands": ["series-refused", "incomplete: CT Image Storage without Pixel Data (7FE0,0010)"]}','incomplete: CT Image Storage without Pixel Data (7FE0,0010)',NULL,'incomplete','geometry','incomplete: CT Image Storage without Pixel Data (7FE0,0010); 1 instance received',NULL,NULL,NULL,'parts of a volume',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "series" VALUES(6,6,'1.2.826.0.1.3680043.8.498.32516764877645347795044054171531438476','CT',1,NULL,NULL,NULL,NULL,NULL,NULL,'Example',NULL,NULL,'1.2.826.0.1.3680043.8.498.72328231974554812562058182053899137542',NULL,NULL,NULL,NULL,'converted',NULL,'2026-11-26 10:09:38.896407',NULL,NULL,1,1,NULL,NULL,NULL,0,NULL,'{"event": 13, "predecessor": 0, "kind": "series-converted", "begun_at": "2100-01-01T00:00:00+00:00", "ended_at": "2026-11-26T09:00:00+00:00", "revision": 1, "detail": "1 instance received; the sender did not announce a count", "stands": ["series-converted", "1 instance received; the sender did not announce a count"]}',NULL,NULL,'complete','quiet','1 instance received; the sender did not announce a count',NULL,NULL,0,'',NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE series_documents (
	series_id INTEGER NOT NULL, 
	document TEXT NOT NULL, 
	varying TEXT NOT NULL, 
	is_partial BOOLEAN NOT NULL, 
	terms_number INTEGER NOT NULL, 
	CONSTRAINT pk_series_documents PRIMARY KEY (series_id), 
	CONSTRAINT fk_series_documents_series_id_series FOREIGN KEY(series_id) REFERENCES series (id) ON DELETE CASCADE
);
INSERT INTO "series_documents" VALUES(1,'{"ImageType":"ORIGINAL\\PRIMARY\\AXIAL","SliceThickness":"2.5","KVP":"120","ImagePositionPatient":"-50\\-40\\30","ImageOrientationPatient":"1\\0\\0\\0\\1\\0","SamplesPerPixel":"1","PhotometricInterpretation":"MONOCHROME2","PixelSpacing":"0.75\\0.5","BitsAllocated":"16","BitsStored":"16","HighBit":"15","PixelRepresentation":"1","RescaleIntercept":"-1024","RescaleSlope":"1","RescaleType":"HU"}','["ImagePositionPatient"]',0,0);
INSERT INTO "series_documents" VALUES(2,'{"ImageType":"ORIGINAL\\PRIMARY\\AXIAL","SliceThickness":"2.5","KVP":"120","ImagePositionPatient":"-50\\-40\\30","ImageOrientationPatient":"1\\0\\0\\0\\1\\0","SamplesPerPixel":"1","PhotometricInterpretation":"MONOCHROME2","PixelSpacing":"0.75\\0.5","BitsAllocated":"16","BitsStored":"16","HighBit":"15","PixelRepresentation":"1","RescaleIntercept":"-1024","RescaleSlope":"1","RescaleType":"HU"}','["ImagePositionPatient"]',0,0);
INSERT INTO "series_documents" VALUES(5,'{"ImageType":"ORIGINAL\\PRIMARY\\AXIAL","SliceThickness":"2.5","KVP":"120","ImagePositionPatient":"-50\\-40\\30","ImageOrientationPatient":"1\\0\\0\\0\\1\\0","SamplesPerPixel":"1","PhotometricInterpretation":"MONOCHROME2","PixelSpacing":"0.75\\0.5","BitsAllocated":"16","BitsStored":"16","HighBit":"15","PixelRepresentation":"1","RescaleIntercept":"-1024","RescaleSlope":"1","RescaleType":"HU"}','[]',0,0);
INSERT INTO "series_documents" VALUES(6,'{"ImageType":"ORIGINAL\\PRIMARY\\AXIAL","SliceThickness":"2.5","KVP":"120","ImagePositionPatient":"-50\\-40\\30","ImageOrientationPatient":"1\\0\\0\\0\\1\\0","SamplesPerPixel":"1","PhotometricInterpretation":"MONOCHROME2","PixelSpacing":"0.75\\0.5","BitsAllocated":"16","BitsStored":"16","HighBit":"15","PixelRepresentation":"1","RescaleIntercept":"-1024","RescaleSlope":"1","RescaleType":"HU"}','[]',0,0);
CREATE TABLE series_references (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	revision INTEGER, 
	CONSTRAINT pk_series_references PRIMARY KEY (id), 
	CONSTRAINT fk_series_references_series_id_series FOREIGN KEY(series_id) REFERENCES series (id)
);
CREATE TABLE series_terms (
	name VARCHAR(200) NOT NULL, 
	value VARCHAR(64) NOT NULL, 
	series_id INTEGER NOT NULL, 
	CONSTRAINT pk_series_terms PRIMARY KEY (name, value, series_id), 
	CONSTRAINT fk_series_terms_series_id_series FOREIGN KEY(series_id) REFERENCES series (id) ON DELETE CASCADE
);
CREATE TABLE shares (
	id INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	may_download BOOLEAN NOT NULL, 
	passphrase_hash VARCHAR(255), 
	deidentification VARCHAR(64), 
	made_by VARCHAR(64) NOT NULL, 
	made_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	uses INTEGER NOT NULL, 
	used_at DATETIME, 
	CONSTRAINT pk_shares PRIMARY KEY (id), 
	CONSTRAINT uq_shares_sha256 UNIQUE (sha256)
);
INSERT INTO "shares" VALUES(1,'1','1','1',0,'1','1','1','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000',1,'2026-11-26 09:00:00.000000');
CREATE TABLE studies (
	id INTEGER NOT NULL, 
	patient_id INTEGER NOT NULL, 
	named_patient_id INTEGER, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	study_date DATE, 
	study_time TIME, 
	accession_number VARCHAR(16), 
	study_id VARCHAR(16), 
	study_description VARCHAR(64), 
	referring_physician_name VARCHAR(324), 
	referring_physician_name_alphabetic VARCHAR(324), 
	referring_physician_name_ideographic VARCHAR(324), 
	referring_physician_name_phonetic VARCHAR(324), 
	patient_age VARCHAR(4), 
	timezone_offset_from_utc VARCHAR(16), 
	closed_at DATETIME, 
	quiet_at DATETIME, 
	CONSTRAINT pk_studies PRIMARY KEY (id), 
	CONSTRAINT fk_studies_patient_id_patients FOREIGN KEY(patient_id) REFERENCES patients (id), 
	CONSTRAINT uq_studies_study_instance_uid UNIQUE (study_instance_uid)
);
INSERT INTO "studies" VALUES(1,1,NULL,'1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295','2024-01-02','10:15:00.000000',NULL,'1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2026-11-26 09:00:00.000000',NULL);
INSERT INTO "studies" VALUES(2,2,NULL,'1.2.826.0.1.3680043.8.498.98649341358700149810522820981979499426','2024-01-02','10:15:00.000000',NULL,'1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2026-11-26 09:00:00.000000',NULL);
INSERT INTO "studies" VALUES(5,5,NULL,'1.2.826.0.1.3680043.8.498.31414036070747266909104979708427060187','2024-01-02','10:15:00.000000',NULL,'1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2026-11-26 09:00:00.000000',NULL);
INSERT INTO "studies" VALUES(6,2,6,'1.2.826.0.1.3680043.8.498.56809458295153437665181693906313861977','2024-01-02','10:15:00.000000',NULL,'1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2026-11-26 09:00:00.000000',NULL);
CREATE TABLE subscribers (
	kind VARCHAR(16) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	event_id INTEGER NOT NULL, 
	image_id INTEGER, 
	rewinds INTEGER NOT NULL, 
	delivered INTEGER NOT NULL, 
	delivered_at DATETIME, 
	paused BOOLEAN DEFAULT 0 NOT NULL, 
	trouble TEXT, 
	trouble_since DATETIME, 
	retry_at DATETIME, 
	CONSTRAINT pk_subscribers PRIMARY KEY (kind, name, destination)
);
INSERT INTO "subscribers" VALUES('hook','archive','',20,9,0,0,NULL,0,NULL,NULL,NULL);
INSERT INTO "subscribers" VALUES('route','all','PACS',20,9,0,0,NULL,0,NULL,NULL,NULL);
CREATE TABLE tokens (
	id INTEGER NOT NULL, 
	account_id INTEGER NOT NULL, 
	label VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	role VARCHAR(8), 
	routes VARCHAR(1000), 
	project_id INTEGER, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	used_at DATETIME, 
	CONSTRAINT pk_tokens PRIMARY KEY (id), 
	CONSTRAINT uq_tokens_account_id_label UNIQUE (account_id, label), 
	CONSTRAINT fk_tokens_account_id_accounts FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE, 
	CONSTRAINT uq_tokens_sha256 UNIQUE (sha256), 
	CONSTRAINT fk_tokens_project_id_projects FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);
INSERT INTO "tokens" VALUES(1,1,'script','0000000000000000000000000000000000000000000000000000000000000000',NULL,NULL,NULL,'2026-11-26 10:09:42.061549',NULL,NULL);
CREATE TABLE tombstones (
	id INTEGER NOT NULL, 
	level VARCHAR(16) NOT NULL, 
	uid VARCHAR(64) NOT NULL, 
	reason VARCHAR(64) NOT NULL, 
	paths JSON NOT NULL, 
	ordered_at DATETIME NOT NULL, 
	finished_at DATETIME, 
	trash_until DATETIME, 
	restored_at DATETIME, 
	content JSON, 
	CONSTRAINT pk_tombstones PRIMARY KEY (id)
);
INSERT INTO "tombstones" VALUES(1,'study','1.2.826.0.1.3680043.8.498.76977462089439211750628011030040033515','by command','["volumes/1.2.826.0.1.3680043.8.498.76977462089439211750628011030040033515/1.2.826.0.1.3680043.8.498.70750716526570116246106973439403270602/1-ca8342a7", "objects/00000000/8890de3c360f47499ff46df95bdf06ed.dcm"]','2026-11-26 10:09:42.257899','2026-11-26 10:09:42.257899',NULL,NULL,NULL);
INSERT INTO "tombstones" VALUES(2,'study','1.2.826.0.1.3680043.8.498.92433762590131531909835451140822126885','by command','["volumes/1.2.826.0.1.3680043.8.498.92433762590131531909835451140822126885/1.2.826.0.1.3680043.8.498.78500174756817233779432927957246849360/1-28f5756e"]','2026-11-26 10:09:42.804489','2026-11-26 10:09:42.804489','2026-12-03 10:09:42.804489',NULL,'{"study_instance_uid": "1.2.826.0.1.3680043.8.498.92433762590131531909835451140822126885", "series_instance_uid": null, "patient_id": "TRASH", "patient_name": "Voxel^Test", "study_date": "2024-01-02", "study_description": null}');
CREATE TABLE trash (
	id INTEGER NOT NULL, 
	deletion INTEGER NOT NULL, 
	"key" VARCHAR(200) NOT NULL, 
	is_loser BOOLEAN NOT NULL, 
	bytes BIGINT NOT NULL, 
	place VARCHAR(8), 
	holder VARCHAR(63), 
	content JSON NOT NULL, 
	CONSTRAINT pk_trash PRIMARY KEY (id), 
	CONSTRAINT fk_trash_deletion_tombstones FOREIGN KEY(deletion) REFERENCES tombstones (id)
);
INSERT INTO "trash" VALUES(1,2,'objects/00000000/ee164ffc30a54e6ca519833adb621820.dcm',0,1102,NULL,NULL,'{"source": "dicom", "calling_ae_title": "MODALITY", "called_ae_title": "VOXELNODE", "peer": "127.0.0.1:1"}');
CREATE TABLE volume_sources (
	id INTEGER NOT NULL, 
	conversion_id INTEGER NOT NULL, 
	stack INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	frames INTEGER NOT NULL, 
	CONSTRAINT pk_volume_sources PRIMARY KEY (id), 
	CONSTRAINT fk_volume_sources_conversion_id_conversions FOREIGN KEY(conversion_id) REFERENCES conversions (id)
);
INSERT INTO "volume_sources" VALUES(1,1,0,'1.2.826.0.1.3680043.8.498.78397094621433839856245653119360204981','dbd41e2b77713e2e35dd7b157ab94a1fcfe3c8266cbade9221307dad4423879e',1);
INSERT INTO "volume_sources" VALUES(2,1,0,'1.2.826.0.1.3680043.8.498.56329210389929480193248284027548927092','b24f7d3cdeeac80557ad20efed13c992d56f5e73c871d3ffbf4cfa03d0c19725',1);
INSERT INTO "volume_sources" VALUES(5,5,0,'1.2.826.0.1.3680043.8.498.53941283556800038696825923429822041602','af40d7489b4d752f82102157deb493c1a5514613df5467811656163dc5a6cbf2',1);
INSERT INTO "volume_sources" VALUES(6,5,0,'1.2.826.0.1.3680043.8.498.80590598032242308775590714640029888311','058b7f682a5e7a0671c1e9b6c522c83bf6557bc682046ce11fb308862c8e3026',1);
INSERT INTO "volume_sources" VALUES(7,5,0,'1.2.826.0.1.3680043.8.498.57249363964278005577264837506160628650','0b3b526303482784f76cafbd9d268d55bfd1f14eb6463e45735b9a6a5b65426a',1);
INSERT INTO "volume_sources" VALUES(8,6,0,'1.2.826.0.1.3680043.8.498.99748734784595827562103876247915576757','f614455f930cb1b28d719d23e07e968cb2a049b8102d8be7fb8860f1cee61449',1);
INSERT INTO "volume_sources" VALUES(9,7,0,'1.2.826.0.1.3680043.8.498.53941283556800038696825923429822041602','af40d7489b4d752f82102157deb493c1a5514613df5467811656163dc5a6cbf2',1);
INSERT INTO "volume_sources" VALUES(10,7,0,'1.2.826.0.1.3680043.8.498.80590598032242308775590714640029888311','058b7f682a5e7a0671c1e9b6c522c83bf6557bc682046ce11fb308862c8e3026',1);
INSERT INTO "volume_sources" VALUES(11,7,0,'1.2.826.0.1.3680043.8.498.57249363964278005577264837506160628650','0b3b526303482784f76cafbd9d268d55bfd1f14eb6463e45735b9a6a5b65426a',1);
CREATE TABLE volumes (
	id INTEGER NOT NULL, 
	conversion_id INTEGER NOT NULL, 
	stack INTEGER NOT NULL, 
	suffix VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	format VARCHAR(16) NOT NULL, 
	path VARCHAR(400) NOT NULL, 
	shape JSON NOT NULL, 
	spacing_mm JSON NOT NULL, 
	dtype VARCHAR(16) NOT NULL, 
	geometry VARCHAR(16) NOT NULL, 
	orientation VARCHAR(8), 
	instances INTEGER NOT NULL, 
	warnings JSON NOT NULL, 
	bytes BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	affine_lps JSON, 
	slice_thickness_mm FLOAT, 
	repetition_time_ms FLOAT, 
	echo_time_ms FLOAT, 
	inversion_time_ms FLOAT, 
	flip_angle_degrees FLOAT, 
	magnetic_field_strength_t FLOAT, 
	sequence VARCHAR(64), 
	weighting VARCHAR(8), 
	contrast_agent VARCHAR(16), 
	convolution_kernel VARCHAR(64), 
	CONSTRAINT pk_volumes PRIMARY KEY (id), 
	CONSTRAINT uq_volumes_conversion_id_path UNIQUE (conversion_id, path), 
	CONSTRAINT fk_volumes_conversion_id_conversions FOREIGN KEY(conversion_id) REFERENCES conversions (id)
);
INSERT INTO "volumes" VALUES(1,1,0,'','volume','nifti','volumes/1.2.826.0.1.3680043.8.498.98649341358700149810522820981979499426/1.2.826.0.1.3680043.8.498.8587462832560431780813789672970707275/1-fff5fc36/volume.nii.gz','[12, 16, 2]','[0.5, 0.75, 2.5]','int16','regular','axial',2,'[]',770,'219441c0ad03acc170df85b2e9e7ba507887fd4b78f8fdd7a5c69a2eaf2fda0e','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(2,1,0,'','volume','mhd','volumes/1.2.826.0.1.3680043.8.498.98649341358700149810522820981979499426/1.2.826.0.1.3680043.8.498.8587462832560431780813789672970707275/1-fff5fc36/volume.mhd','[12, 16, 2]','[0.5, 0.75, 2.5]','int16','regular','axial',2,'[]',336,'4c85ad33e7c8f7cf9dbd3f6003acb759ef4b026a5bf3fada0db726a8aa03b717','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(3,1,0,'','thumbnail','png','volumes/1.2.826.0.1.3680043.8.498.98649341358700149810522820981979499426/1.2.826.0.1.3680043.8.498.8587462832560431780813789672970707275/1-fff5fc36/volume_thumbnail.png','[12, 24]','[]','uint8','regular','axial',2,'[]',77,'cbc36ca420c68ee7488b2ce985ed852933444c514b4693381faf3ae05c0261ee',NULL,2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(10,5,0,'','volume','nifti','volumes/1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295/1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686/1-6c3dc931/volume.nii.gz','[12, 16, 3]','[0.5, 0.75, 2.5]','int16','regular','axial',3,'[]',1052,'12a06f4f0dbca393f62b59f9867666504c822b0c08517c4a69bfc5c8f6d3558f','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(11,5,0,'','volume','mhd','volumes/1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295/1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686/1-6c3dc931/volume.mhd','[12, 16, 3]','[0.5, 0.75, 2.5]','int16','regular','axial',3,'[]',336,'e7c67ac3313b85a4ce5f1828e33436f1828a491bc9ec5e8c20fa6992aaf0efae','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(12,5,0,'','thumbnail','png','volumes/1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295/1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686/1-6c3dc931/volume_thumbnail.png','[12, 24]','[]','uint8','regular','axial',3,'[]',77,'cbc36ca420c68ee7488b2ce985ed852933444c514b4693381faf3ae05c0261ee',NULL,2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(13,6,0,'','volume','nifti','volumes/1.2.826.0.1.3680043.8.498.56809458295153437665181693906313861977/1.2.826.0.1.3680043.8.498.32516764877645347795044054171531438476/1-cf8f2cd2/volume.nii.gz','[12, 16, 1]','[0.5, 0.75, 2.5]','int16','single','axial',1,'[]',480,'591f32f5583ad0e02943436efd489b5577b9c632d578a647be5ad75e36b0d61e','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(14,6,0,'','volume','mhd','volumes/1.2.826.0.1.3680043.8.498.56809458295153437665181693906313861977/1.2.826.0.1.3680043.8.498.32516764877645347795044054171531438476/1-cf8f2cd2/volume.mhd','[12, 16, 1]','[0.5, 0.75, 2.5]','int16','single','axial',1,'[]',336,'b4ce9878f46ee099208f408afec25d0314d3bdbf7c1fd4b880532a81b3325888','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(15,6,0,'','thumbnail','png','volumes/1.2.826.0.1.3680043.8.498.56809458295153437665181693906313861977/1.2.826.0.1.3680043.8.498.32516764877645347795044054171531438476/1-cf8f2cd2/volume_thumbnail.png','[12, 24]','[]','uint8','single','axial',1,'[]',84,'29a114e956c7896e7b3e46f240b809ca5f882de8d1aeb59aa771a8d00d745f32',NULL,2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(16,7,0,'','volume','nifti','volumes/1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295/1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686/2-164e84c1/volume.nii.gz','[12, 16, 3]','[0.5, 0.75, 2.5]','int16','regular','axial',3,'[]',1052,'12a06f4f0dbca393f62b59f9867666504c822b0c08517c4a69bfc5c8f6d3558f','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(17,7,0,'','volume','mhd','volumes/1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295/1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686/2-164e84c1/volume.mhd','[12, 16, 3]','[0.5, 0.75, 2.5]','int16','regular','axial',3,'[]',336,'e7c67ac3313b85a4ce5f1828e33436f1828a491bc9ec5e8c20fa6992aaf0efae','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(18,7,0,'','thumbnail','png','volumes/1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295/1.2.826.0.1.3680043.8.498.81073332631210512906524492227808042686/2-164e84c1/volume_thumbnail.png','[12, 24]','[]','uint8','regular','axial',3,'[]',77,'cbc36ca420c68ee7488b2ce985ed852933444c514b4693381faf3ae05c0261ee',NULL,2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE web_sessions (
	id INTEGER NOT NULL, 
	account_id INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	address VARCHAR(64), 
	agent VARCHAR(200), 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	used_at DATETIME, 
	has_factor BOOLEAN, 
	CONSTRAINT pk_web_sessions PRIMARY KEY (id), 
	CONSTRAINT fk_web_sessions_account_id_accounts FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE, 
	CONSTRAINT uq_web_sessions_sha256 UNIQUE (sha256)
);
INSERT INTO "web_sessions" VALUES(1,1,'1','1','1','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000',0);
CREATE TABLE work (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	kind VARCHAR(16) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	event VARCHAR(32), 
	cause VARCHAR(36), 
	study_instance_uid VARCHAR(64), 
	series_instance_uid VARCHAR(64), 
	sop_instance_uid VARCHAR(64), 
	revision INTEGER, 
	happened_at DATETIME NOT NULL, 
	requested_by VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	outcome VARCHAR(16), 
	attempts INTEGER NOT NULL, 
	repeats INTEGER NOT NULL, 
	due_at DATETIME, 
	tried_at DATETIME, 
	percent INTEGER, 
	reason TEXT, 
	cancelled_by VARCHAR(64), 
	payload JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	changed_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	CONSTRAINT uq_work_kind_name_destination_key UNIQUE (kind, name, destination, "key"), 
	CONSTRAINT ck_work_outcome CHECK ((state = 'ended') = (outcome IS NOT NULL))
);
INSERT INTO "work" VALUES(1,'erasure','vm','','047774b8b14cbc68ab93a07ce9bd6151',NULL,NULL,NULL,NULL,NULL,NULL,'2026-11-26 10:09:42.212588','test','ended','succeeded',1,0,NULL,'2026-11-26 10:09:42.212588',NULL,NULL,NULL,'{"objects": [], "deleted": 0, "trash": [], "certificate": {"erased_at": "2026-11-26T10:09:42Z", "node": "VOXELNODE", "version": "0.1.0", "uids_sha256": ["cf72159b4dc924d2ccdfc838498076f0d59d914972ffa3cd7d8c79a751c2501e"], "series": 1, "instances": 1, "bytes": 1100, "quarantined": 0, "downloads": 0, "trash": 0, "index_overwritten": true, "takers": [], "stays": ["the audit log, which names the patient, and UIDs in the ledger of what was acknowledged and in lists of events"]}}','2026-11-26 10:09:42.212588','2026-11-26 10:09:42.759528','2026-11-26 10:09:42.759528');
INSERT INTO "work" VALUES(2,'commitment','CT1','','1.2.3',NULL,NULL,NULL,NULL,NULL,NULL,'2026-11-26 09:00:00.000000','CT1','waiting',NULL,0,0,'2100-01-01 00:00:00.000000',NULL,NULL,NULL,NULL,'{"peer": "127.0.0.1", "instances": 1, "references": [["1.2", "1.2.3"]], "failed": null}','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000',NULL);
INSERT INTO "work" VALUES(3,'retrieval','pacs','','85ba92e262a58240fbec65eb8a23650c',NULL,NULL,'1.2.826.0.1.3680043.8.498.32493434905704628003446973468666944295',NULL,NULL,NULL,'2026-11-26 09:00:00.000000','ann','waiting',NULL,0,0,NULL,NULL,NULL,NULL,NULL,'{"announced": null, "stored": 0, "refused": 0, "failed": 0}','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000',NULL);
INSERT INTO "work" VALUES(1000,'copy','1','1','1','1','1','1','1','1',1,'2026-11-26 09:00:00.000000','1','ended','succeeded',1,1,'2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000',1,'1','1','{}','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000');
CREATE TABLE workitems (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	transaction_uid VARCHAR(64), 
	patient_id VARCHAR(64), 
	attributes JSON NOT NULL, 
	created_by VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	CONSTRAINT ck_workitems_state CHECK (state IN ('SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'CANCELED')), 
	CONSTRAINT uq_workitems_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "workitems" VALUES(1,'1','SCHEDULED','1','1','{}','1','2026-11-26 09:00:00.000000','2026-11-26 09:00:00.000000');
CREATE INDEX ix_audit_lines_at ON audit_lines (at);
CREATE INDEX ix_patients_patient_name_alphabetic ON patients (patient_name_alphabetic);
CREATE INDEX ix_patients_identity ON patients (identity);
CREATE INDEX ix_patients_patient_name_phonetic ON patients (patient_name_phonetic);
CREATE INDEX ix_patients_patient_id ON patients (patient_id);
CREATE INDEX ix_patients_patient_name_ideographic ON patients (patient_name_ideographic);
CREATE INDEX ix_patients_patient_name ON patients (patient_name);
CREATE INDEX ix_patients_merged_into ON patients (merged_into);
CREATE INDEX ix_studies_accession_number ON studies (accession_number);
CREATE INDEX ix_studies_patient_id ON studies (patient_id);
CREATE INDEX ix_studies_study_id ON studies (study_id);
CREATE INDEX ix_studies_closed_at ON studies (closed_at);
CREATE INDEX ix_studies_study_date ON studies (study_date);
CREATE INDEX ix_studies_study_description ON studies (study_description);
CREATE INDEX ix_series_doubted ON series (study_id) WHERE verdict IN ('suspect', 'incomplete');
CREATE INDEX ix_series_series_description_study_id ON series (series_description, study_id);
CREATE INDEX ix_series_modality_study_id ON series (modality, study_id);
CREATE INDEX ix_series_series_instance_uid ON series (series_instance_uid);
CREATE INDEX ix_series_state_due_at ON series (state, due_at);
CREATE INDEX ix_series_study_id ON series (study_id);
CREATE INDEX ix_images_spooled ON images ("key") WHERE place = 'spool';
CREATE INDEX ix_images_series_id ON images (series_id);
CREATE INDEX ix_images_series_id_spool_host ON images (series_id, spool_host) WHERE spool_host IS NOT NULL;
CREATE INDEX ix_images_series_id_missing ON images (series_id) WHERE file_missing;
CREATE INDEX ix_series_documents_partial ON series_documents (series_id) WHERE is_partial;
CREATE INDEX ix_series_documents_terms_number ON series_documents (terms_number, series_id);
CREATE INDEX ix_series_terms_series_id ON series_terms (series_id);
CREATE INDEX ix_volumes_conversion_id ON volumes (conversion_id);
CREATE INDEX ix_volume_sources_conversion_id_stack ON volume_sources (conversion_id, stack);
CREATE INDEX ix_volume_sources_sop_instance_uid ON volume_sources (sop_instance_uid);
CREATE INDEX ix_exclusions_conversion_id ON exclusions (conversion_id);
CREATE INDEX ix_exclusions_sop_instance_uid ON exclusions (sop_instance_uid);
CREATE INDEX ix_failures_of_images ON failures (series_id) WHERE reason <> 'not-an-image';
CREATE INDEX ix_failures_series_id ON failures (series_id);
CREATE INDEX ix_series_references_series_id ON series_references (series_id);
CREATE INDEX ix_series_references_series_instance_uid ON series_references (series_instance_uid);
CREATE INDEX ix_revision_files_conversion_id ON revision_files (conversion_id);
CREATE INDEX ix_revision_files_spooled ON revision_files ("key") WHERE place = 'spool';
CREATE INDEX ix_events_happened_at ON events (happened_at);
CREATE INDEX ix_events_kind ON events (kind);
CREATE INDEX ix_events_series_instance_uid ON events (series_instance_uid);
CREATE INDEX ix_conflicts_study_instance_uid ON conflicts (study_instance_uid);
CREATE INDEX ix_conflicts_key ON conflicts ("key");
CREATE INDEX ix_conflicts_sop_instance_uid ON conflicts (sop_instance_uid);
CREATE INDEX ix_rejections_last_at ON rejections (last_at);
CREATE INDEX ix_rejections_rule ON rejections (rule);
CREATE INDEX ix_lost_instances_series_instance_uid ON lost_instances (series_instance_uid);
CREATE INDEX ix_tombstones_uid ON tombstones (uid);
CREATE INDEX ix_tombstones_trash_until ON tombstones (trash_until);
CREATE INDEX ix_trash_deletion ON trash (deletion);
CREATE INDEX ix_trash_key ON trash ("key");
CREATE INDEX ix_projects_called_ae_title ON projects (called_ae_title);
CREATE INDEX ix_project_members_account ON project_members (account);
CREATE INDEX ix_project_contents_study_instance_uid ON project_contents (study_instance_uid);
CREATE INDEX ix_project_series_project_id ON project_series (project_id);
CREATE INDEX ix_project_originals_project_id ON project_originals (project_id);
CREATE INDEX ix_copied_series_copy_series_instance_uid ON copied_series (copy_series_instance_uid);
CREATE INDEX ix_recovery_codes_account_id ON recovery_codes (account_id);
CREATE INDEX ix_tokens_project_id ON tokens (project_id);
CREATE INDEX ix_web_sessions_account_id ON web_sessions (account_id);
CREATE INDEX ix_shares_study_instance_uid ON shares (study_instance_uid);
CREATE INDEX ix_keyed_requests_began_at ON keyed_requests (began_at);
CREATE INDEX ix_scheduled_steps_patient_id ON scheduled_steps (patient_id);
CREATE INDEX ix_scheduled_steps_study_instance_uid ON scheduled_steps (study_instance_uid);
CREATE INDEX ix_scheduled_steps_start_date ON scheduled_steps (start_date);
CREATE INDEX ix_scheduled_steps_accession_number ON scheduled_steps (accession_number);
CREATE INDEX ix_performed_steps_study_instance_uid ON performed_steps (study_instance_uid);
CREATE INDEX ix_performed_series_performed_step_id ON performed_series (performed_step_id);
CREATE INDEX ix_performed_series_series_instance_uid ON performed_series (series_instance_uid);
CREATE INDEX ix_work_kind_id ON work (kind, id);
CREATE INDEX ix_work_state_kind_name_destination_due_at ON work (state, kind, name, destination, due_at);
CREATE INDEX ix_work_cause ON work (cause);
CREATE INDEX ix_work_study_instance_uid ON work (study_instance_uid);
CREATE INDEX ix_work_kind_name_destination_outcome_due_at ON work (kind, name, destination, outcome, due_at);
CREATE INDEX ix_work_key ON work ("key");
CREATE INDEX ix_sent_instances_transaction_uid ON sent_instances (transaction_uid);
CREATE INDEX ix_sent_instances_unconfirmed ON sent_instances (route, destination) WHERE state IN ('owed', 'asked');
CREATE INDEX ix_results_series_instance_uid ON results (series_instance_uid);
CREATE INDEX ix_results_source_series_instance_uid ON results (source_series_instance_uid);
CREATE INDEX ix_workitems_patient_id ON workitems (patient_id);
CREATE INDEX ix_workitems_state ON workitems (state);
CREATE INDEX ix_labels_label ON labels (label);
CREATE INDEX ix_comments_study_instance_uid ON comments (study_instance_uid);
CREATE VIEW v_patients AS 
            SELECT p.id, p.patient_id, p.issuer_of_patient_id, p.patient_name, p.patient_birth_date, p.patient_sex,
                   (SELECT count(*) FROM studies st WHERE st.patient_id = p.id) AS studies, p.merged_into
            FROM patients p;
CREATE VIEW v_studies AS 
            SELECT st.study_instance_uid, st.patient_id AS patient, p.patient_id, p.patient_name, p.patient_birth_date,
                   p.patient_sex, st.study_date, st.study_time, st.accession_number, st.study_id, st.study_description,
                   st.referring_physician_name,
                   (SELECT count(*) FROM series se WHERE se.study_id = st.id) AS series,
                   (SELECT count(*) FROM images i JOIN series se ON se.id = i.series_id WHERE se.study_id = st.id)
                       AS instances,
                   (SELECT max(se.last_received_at) FROM series se WHERE se.study_id = st.id) AS last_received_at,
                   CASE WHEN st.closed_at IS NULL AND NOT EXISTS (
                       SELECT 1 FROM series se WHERE se.study_id = st.id AND se.state IN ('receiving', 'converting')
                   ) THEN st.quiet_at END AS quiet_at
            FROM studies st JOIN patients p ON p.id = st.patient_id;
CREATE VIEW v_series AS 
            SELECT se.series_instance_uid, st.study_instance_uid, se.modality, se.series_number, se.series_description,
                   se.body_part_examined, se.protocol_name, se.manufacturer, se.manufacturer_model_name,
                   se.series_date, se.series_time,
                   se.state, se.verdict, CASE WHEN se.verdict <> 'complete' THEN se.verdict WHEN se.verdict_rule IN ('mpps', 'c-find', 'headers') THEN 'verified' WHEN se.verdict = 'complete' THEN 'no gap seen' END AS certainty, se.verdict_rule, se.verdict_reason,
                   se.expected_instances, se.expected_source, se.missing_instances, se.missing_detail,
                   (SELECT count(*) FROM images i WHERE i.series_id = se.id) AS instances,
                   se.revision, se.open_since, se.last_received_at, se.due_at, se.attempts, se.error,
                   (SELECT pr.name FROM projects pr WHERE pr.id = se.copied_for) AS copied_for,
                   CASE WHEN se.acknowledged_problem = se.state || ' ' || coalesce(se.verdict, 'unknown') || ' ' || se.revision THEN se.acknowledged_reason END AS acknowledged_reason,
                   CASE WHEN se.acknowledged_problem = se.state || ' ' || coalesce(se.verdict, 'unknown') || ' ' || se.revision THEN se.acknowledged_by END AS acknowledged_by,
                   CASE WHEN se.acknowledged_problem = se.state || ' ' || coalesce(se.verdict, 'unknown') || ' ' || se.revision THEN se.acknowledged_at END AS acknowledged_at
            FROM series se JOIN studies st ON st.id = se.study_id;
CREATE VIEW v_images AS 
            SELECT i.sop_instance_uid, se.series_instance_uid, st.study_instance_uid, i.sop_class_uid,
                   i.transfer_syntax_uid, i.instance_number, i.number_of_frames, i."rows", i."columns",
                   i.bytes, i.sha256, i.data_set_offset, coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '') || i."key" AS path,
                   i.file_missing, i.place, i.spool_host, i.source, i.calling_ae_title, i.called_ae_title, i.peer,
                   i.received_at
            FROM images i JOIN series se ON se.id = i.series_id JOIN studies st ON st.id = se.study_id;
CREATE VIEW v_volumes AS 
            SELECT se.series_instance_uid, st.study_instance_uid, c.revision, c.superseded, v.stack, v.suffix, v.kind,
                   v.format, coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '') || v.path AS path,
                   v.shape, v.spacing_mm, v.dtype, v.geometry, v.orientation, v.affine_lps, v.slice_thickness_mm,
                   v.repetition_time_ms, v.echo_time_ms, v.inversion_time_ms, v.flip_angle_degrees,
                   v.magnetic_field_strength_t, v.sequence, v.weighting, v.contrast_agent, v.convolution_kernel,
                   v.instances, v.warnings, v.bytes, v.sha256,
                   (SELECT f.place FROM revision_files f WHERE f."key" = v.path) AS place,
                   c.converter, c.created_at, c.files_removed_at
            FROM volumes v JOIN conversions c ON c.id = v.conversion_id
            JOIN series se ON se.id = c.series_id JOIN studies st ON st.id = se.study_id;
CREATE VIEW v_catalog AS 
            SELECT st.study_instance_uid, se.series_instance_uid, c.revision, v.stack, v.suffix,
                   st.patient_id AS patient, p.patient_id, p.patient_sex,
                   CASE WHEN length(st.patient_age) = 4 AND substr(st.patient_age, 1, 1) BETWEEN '0' AND '9' AND substr(st.patient_age, 2, 1) BETWEEN '0' AND '9' AND substr(st.patient_age, 3, 1) BETWEEN '0' AND '9' THEN CAST(substr(st.patient_age, 1, 3) AS FLOAT) / CASE substr(st.patient_age, 4) WHEN 'Y' THEN 1.0 WHEN 'M' THEN 12.0 WHEN 'W' THEN 52.1775 WHEN 'D' THEN 365.2425 END END AS patient_age,
                   st.study_date, st.study_description, st.accession_number,
                   +se.modality AS modality, se.series_number, se.series_description,
                   se.protocol_name, se.body_part_examined, se.manufacturer, se.manufacturer_model_name,
                   v.magnetic_field_strength_t, v.weighting, v.sequence, v.repetition_time_ms, v.echo_time_ms,
                   v.inversion_time_ms, v.flip_angle_degrees, v.contrast_agent, v.convolution_kernel, v.orientation,
                   v.geometry,
                   json_extract(v.shape, '$[0]') AS columns, json_extract(v.shape, '$[1]') AS rows,
                   json_extract(v.shape, '$[2]') AS slices, coalesce(json_extract(v.shape, '$[3]'), 1) AS times,
                   json_extract(v.spacing_mm, '$[0]') AS column_spacing_mm,
                   json_extract(v.spacing_mm, '$[1]') AS row_spacing_mm,
                   json_extract(v.spacing_mm, '$[2]') AS slice_spacing_mm,
                   v.slice_thickness_mm, v.affine_lps, v.dtype, v.warnings,
                   se.verdict, se.state, v.instances, v.format, coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '') || v.path AS path, v.bytes, v.sha256,
                   c.created_at
            FROM studies st JOIN patients p ON p.id = st.patient_id JOIN series se ON se.study_id = st.id
            JOIN conversions c ON c.series_id = +se.id
            JOIN volumes v ON v.conversion_id = +c.id
            WHERE v.kind = 'volume' AND NOT c.superseded AND c.files_removed_at IS NULL
              AND v.id = (
                  SELECT o.id FROM volumes o
                  WHERE o.conversion_id = v.conversion_id AND o.stack = v.stack AND o.suffix = v.suffix
                    AND o.kind = 'volume'
                  ORDER BY o.format <> 'nifti', o.id LIMIT 1
              );
CREATE VIEW v_failures AS 
            SELECT se.series_instance_uid, st.study_instance_uid, f.revision, f.stack, f.reason, f.detail, f.failed_at
            FROM failures f JOIN series se ON se.id = f.series_id JOIN studies st ON st.id = se.study_id;
CREATE VIEW v_sources AS 
            SELECT se.series_instance_uid, st.study_instance_uid, c.revision, s.stack, s.sop_instance_uid, s.sha256,
                   s.frames
            FROM volume_sources s JOIN conversions c ON c.id = s.conversion_id JOIN series se ON se.id = c.series_id
            JOIN studies st ON st.id = se.study_id;
CREATE VIEW v_exclusions AS 
            SELECT se.series_instance_uid, st.study_instance_uid, c.revision, x.sop_instance_uid, x.frames, x.reason,
                   x.detail
            FROM exclusions x JOIN conversions c ON c.id = x.conversion_id JOIN series se ON se.id = c.series_id
            JOIN studies st ON st.id = se.study_id;
CREATE VIEW v_conflicts AS 
            SELECT id, kind, study_instance_uid, series_instance_uid, sop_instance_uid, detail,
                   coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '') || conflicts."key" AS path, sha256, calling_ae_title, found_at, decision, decided_at,
                   decided_by
            FROM conflicts;
CREATE VIEW v_events AS 
            SELECT id, kind, study_instance_uid, series_instance_uid, sop_instance_uid, revision, detail, happened_at
            FROM events;
CREATE VIEW v_rejections AS 
            SELECT what, rule, peer, calling_ae_title, called_ae_title, offered, reason, remedy, "count", first_at,
                   last_at
            FROM rejections;
CREATE VIEW v_lost_instances AS 
            SELECT sop_instance_uid, study_instance_uid, series_instance_uid, sha256, source, calling_ae_title, peer,
                   received_at, noticed_at
            FROM lost_instances;
CREATE VIEW v_labels AS 
            SELECT l.study_instance_uid, nullif(l.series_instance_uid, '') AS series_instance_uid, l.label, l.given_by,
                   l.given_at
            FROM labels l JOIN studies st ON st.study_instance_uid = l.study_instance_uid
            WHERE l.series_instance_uid = '' OR EXISTS (
                SELECT 1 FROM series se
                WHERE se.study_id = st.id AND se.series_instance_uid = l.series_instance_uid);
CREATE VIEW v_comments AS 
            SELECT c.id, c.study_instance_uid, nullif(c.series_instance_uid, '') AS series_instance_uid, c.comment,
                   c.written_by, c.written_at
            FROM comments c JOIN studies st ON st.study_instance_uid = c.study_instance_uid
            WHERE c.series_instance_uid = '' OR EXISTS (
                SELECT 1 FROM series se
                WHERE se.study_id = st.id AND se.series_instance_uid = c.series_instance_uid);
CREATE VIEW v_deletions AS 
            SELECT level, uid, reason, ordered_at, finished_at,
                   CASE WHEN content IS NOT NULL THEN trash_until END AS trash_until, restored_at
            FROM tombstones;
CREATE VIEW v_senders AS 
            SELECT calling_ae_title, quiet_seconds, json_array_length(gaps) AS series,
                   (SELECT max(CAST(value AS FLOAT)) FROM json_each(gaps)) AS longest_gap_seconds, learnt_at
            FROM senders;
CREATE VIEW v_commitments AS 
            SELECT "key" AS transaction_uid, name AS calling_ae_title, json_extract(payload, '$.peer') AS peer,
                   CAST(json_extract(payload, '$.instances') AS BIGINT) AS instances,
                   CASE WHEN outcome IS NULL THEN 'owed' WHEN outcome = 'succeeded' THEN 'reported' ELSE 'given-up' END
                       AS state,
                   attempts, CAST(json_extract(payload, '$.failed') AS BIGINT) AS failed, reason AS detail,
                   happened_at AS requested_at, due_at, ended_at
            FROM work WHERE kind = 'commitment';
CREATE VIEW v_hooks AS 
            SELECT h.name AS hook, h.paused, CASE WHEN h.image_id IS NOT NULL THEN (SELECT count(*) FROM images i WHERE i.id > h.image_id) END AS instances_behind,
                   (SELECT count(*) FROM events e WHERE e.id > h.event_id) AS events_behind,
                   (SELECT count(*) FROM work w WHERE w.kind = h.kind AND w.name = h.name AND w.destination = h.destination AND w.outcome IS NULL) AS waiting,
                   (SELECT count(*) FROM work w WHERE w.kind = h.kind AND w.name = h.name AND w.destination = h.destination AND w.outcome = 'failed') AS given_up,
                   h.delivered, h.delivered_at
            FROM subscribers h WHERE h.kind = 'hook';
CREATE VIEW v_deliveries AS 
            SELECT w."key" AS message_id, w.name AS hook, w.event, w.study_instance_uid, w.series_instance_uid,
                   w.sop_instance_uid, w.revision, json_extract(w.payload, '$.detail') AS detail, w.happened_at,
                   
    CASE coalesce(w.outcome, w.state) WHEN 'succeeded' THEN 'delivered' WHEN 'failed' THEN 'given-up'
         WHEN 'cancelled' THEN 'dropped' ELSE coalesce(w.outcome, w.state) END AS state, w.attempts, w.due_at, w.reason,
                   json_extract(w.payload, '$.output') AS output, w.tried_at AS last_at
            FROM work w WHERE w.kind = 'hook';
CREATE VIEW v_routes AS 
            SELECT h.name AS route, h.destination, h.paused, h.trouble, h.trouble_since, h.retry_at,
                   CASE WHEN h.image_id IS NOT NULL THEN (SELECT count(*) FROM images i WHERE i.id > h.image_id) END AS instances_behind,
                   CASE WHEN h.image_id IS NULL THEN (
                       SELECT count(DISTINCT e.series_instance_uid) FROM events e WHERE e.id > h.event_id
                   ) END AS series_behind,
                   (SELECT count(*) FROM work w WHERE w.kind = h.kind AND w.name = h.name AND w.destination = h.destination AND w.outcome IS NULL) AS waiting,
                   (SELECT count(*) FROM work w WHERE w.kind = h.kind AND w.name = h.name AND w.destination = h.destination AND w.outcome = 'failed') AS given_up,
                   (SELECT min(w.happened_at) FROM work w WHERE w.kind = h.kind AND w.name = h.name AND w.destination = h.destination AND w.outcome IS NULL) AS waiting_since,
                   (SELECT count(*) FROM sent_instances s WHERE s.route = h.name AND s.destination = h.destination
                    AND s.state IN ('owed', 'asked')) AS unconfirmed,
                   h.delivered, h.delivered_at
            FROM subscribers h WHERE h.kind = 'route';
CREATE VIEW v_route_messages AS 
            SELECT w."key" AS message_id, w.name AS route, w.destination, w.event, w.study_instance_uid,
                   w.series_instance_uid, w.sop_instance_uid, w.revision, w.happened_at, 
    CASE coalesce(w.outcome, w.state) WHEN 'succeeded' THEN 'delivered' WHEN 'failed' THEN 'given-up'
         WHEN 'cancelled' THEN 'dropped' ELSE coalesce(w.outcome, w.state) END AS state,
                   w.attempts, w.due_at, w.reason, w.tried_at AS last_at
            FROM work w WHERE w.kind = 'route';
CREATE VIEW v_sent_instances AS 
            SELECT s.route, s.destination, st.study_instance_uid, se.series_instance_uid, i.sop_instance_uid,
                   s.sop_instance_uid AS sent_sop_instance_uid, s.sha256, s.state, s.sent_at, s.asked_at, s.confirmed_at
            FROM sent_instances s JOIN images i ON i.id = s.image_id JOIN series se ON se.id = i.series_id
            JOIN studies st ON st.id = se.study_id;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('work',1000);
INSERT INTO "sqlite_sequence" VALUES('projects',1);
INSERT INTO "sqlite_sequence" VALUES('workitems',1);
COMMIT;
